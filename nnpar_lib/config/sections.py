"""The five sections of a config together, and questions about their fields.

Lists of option names are not kept by hand: each is a query over what the fields say of themselves.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nnpar_lib.config.computing import Computing
from nnpar_lib.config.keeping import Keeping
from nnpar_lib.config.network import Network
from nnpar_lib.config.option import PROBLEM, Option, Role, Section, describe
from nnpar_lib.config.spread import NATIVE_STRATEGIES, STRATEGIES, Spread
from nnpar_lib.config.training import Training

SECTIONS: tuple[type[Section], ...] = (Network, Training, Spread, Computing, Keeping)
OPTIONS: dict[str, Option] = {
    field.name: describe(field) for section in SECTIONS for field in dataclasses.fields(section)
}


@dataclass(frozen=True, kw_only=True)
class Sections(Network, Training, Spread, Computing, Keeping):
    """All options. Each section has checked itself; `config.rules` checks them together."""

    @property
    def num_recomputed_parts(self) -> int:
        """Parts of a rank's blocks that recompute their activations one after the other.

        0 means the square root of the number of blocks, see `parts.segments`. A residual block
        keeps several tensors, so that it is a part of its own; so is each block where gradients
        are exchanged block by block. A stage of single layers is one
        part: of each live micro-batch it keeps its input alone (GPipe, Huang et al. 2019).
        """
        if self.model == "resnet18" or self.strategy in ("hybrid", "sharded"):
            return self.num_blocks
        return 1 if self.strategy == "pipeline" else 0

    def reads(self, name: str) -> bool:
        """Return whether an option has an effect on this run."""
        return self.unread_because_of(name) is None

    def unread_because_of(self, name: str) -> str | None:
        """Return the name of the option whose value makes this one idle, None where it is read."""
        for reader, values in OPTIONS[name].read_by.items():
            if getattr(self, reader) not in values:
                return reader
        return None


def with_role(role: Role, *, rates_only: bool = False) -> tuple[str, ...]:
    """Return the options with a role; `rates_only` leaves out what does not change the rate."""
    return tuple(
        name
        for name, option in OPTIONS.items()
        if option.role == role and (option.changes_rate or not rates_only)
    )


def readers(name: str) -> tuple[str, ...]:
    """Return the strategies that read an option."""
    return OPTIONS[name].read_by.get("strategy", STRATEGIES)


def architecture_options(config: Sections) -> tuple[str, ...]:
    """Return the options whose values tell this network from others, the seed left out."""
    names = {field.name for field in dataclasses.fields(Network)}
    return tuple(
        name for name in with_role(PROBLEM, rates_only=True) if name in names and config.reads(name)
    )


def fixed_by_checkpoint(config: Sections) -> tuple[str, ...]:
    """Return the options that a run which goes on from a checkpoint must not change."""
    return tuple(name for name, option in OPTIONS.items() if option.fixed and config.reads(name))


def idle_in_serial_twin() -> tuple[str, ...]:
    """Return the options that say how a run is computed and kept, and must not change its result.

    The serial run that a parallel one is compared with has their defaults.
    """
    return tuple(
        name
        for name, option in OPTIONS.items()
        if option.role != PROBLEM and not option.changes_numbers
    )


def telling_runs_apart() -> tuple[str, ...]:
    """Return the options by which a run counts as done."""
    return tuple(name for name, option in OPTIONS.items() if option.tells_runs_apart)


def native_values(name: str) -> tuple[object, ...]:
    """Return the values of an option that the program in C++ offers, none where it offers all."""
    return NATIVE_STRATEGIES if name == "strategy" else OPTIONS[name].native


def passed_to_native() -> tuple[str, ...]:
    """Return the options that the program in C++ reads and that leave it a choice."""
    return tuple(
        name
        for name, option in OPTIONS.items()
        if len(native_values(name)) != 1
        and all(_is_offered(reader, values) for reader, values in option.read_by.items())
    )


def _is_offered(name: str, values: tuple[str, ...]) -> bool:
    offered = native_values(name)
    return not offered or any(value in offered for value in values)


def resolved(config: Sections, name: str) -> object:
    """Return the value of an option, the model's default of `hidden` where none was given."""
    return config.hidden_widths if name == "hidden" else getattr(config, name)
