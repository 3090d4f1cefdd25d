"""The network: its kind, its widths and the seed of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnpar_lib.config.option import METHOD, PROBLEM, Section, option

MODELS = ("mlp", "cnn", "resnet18")
STEMS = ("imagenet", "small")
BATCH_NORMS = ("synchronised", "local")
DEFAULT_HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (256, 128), "cnn": (128,), "resnet18": ()}
NUM_RESIDUAL_BLOCKS = 8
IMAGE_SIZE = 28


@dataclass(frozen=True, kw_only=True)
class Network(Section):
    """Which network is trained, and from which initial weights."""

    model: str = option("mlp", "the network", MODELS, role=PROBLEM, native=("mlp",))
    hidden: tuple[int, ...] | None = option(
        None,
        "widths of the hidden fully connected layers, comma separated "
        "(default: 256,128 for mlp and 128 for cnn)",
        role=PROBLEM,
        read_by={"model": ("mlp", "cnn")},
    )
    channels: tuple[int, ...] = option(
        (32, 64),
        "channels of the convolutions, comma separated",
        role=PROBLEM,
        read_by={"model": ("cnn",)},
    )
    kernel_size: int = option(
        3,
        "height and width of the convolutions",
        role=PROBLEM,
        read_by={"model": ("cnn",)},
        minimum=1,
    )
    stem: str = option(
        "imagenet",
        "first layers: imagenet leaves 7x7 of 28x28 pixels, small all of them",
        STEMS,
        role=PROBLEM,
        read_by={"model": ("resnet18",)},
    )
    width: int = option(
        64,
        "channels of the first stage; the next ones have 2, 4 and 8 times as many",
        role=PROBLEM,
        read_by={"model": ("resnet18",)},
        minimum=1,
    )
    batch_norm: str = option(
        "synchronised",
        "normalise with statistics of a micro-batch over all ranks that "
        "average gradients, or with each rank's local ones",
        BATCH_NORMS,
        role=METHOD,
        read_by={
            "model": ("resnet18",),
            "strategy": ("gradient_averaging", "sharded", "torch_ddp", "torch_fsdp", "hybrid"),
        },
        changes_numbers=True,
    )
    seed: int = option(
        0,
        "seed of the initial weights and of the order of the examples",
        role=PROBLEM,
        minimum=0,
        changes_rate=False,
        fixed=True,
    )

    def __post_init__(self) -> None:
        if self.hidden is not None:  # None stands for the default of the model
            self._set("hidden", _widths("hidden", self.hidden))
        self._set("channels", _widths("channels", self.channels))
        super().__post_init__()
        self._check_widths()
        self._check_layers()

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        """The widths of the hidden fully connected layers; the model's default if none are
        given."""
        return DEFAULT_HIDDEN[self.model] if self.hidden is None else self.hidden

    @property
    def num_blocks(self) -> int:
        """Atomic blocks of the model: what stages are made of."""
        first = {"cnn": len(self.channels), "resnet18": 1 + NUM_RESIDUAL_BLOCKS}.get(self.model, 0)
        return first + len(self.hidden_widths) + 1

    def _check_widths(self) -> None:
        for name, widths in (("hidden", self.hidden), ("channels", self.channels)):
            if any(width < 1 for width in widths or ()):
                raise ValueError(
                    f"{name}={widths} holds a width below 1; give positive whole numbers"
                )

    def _check_layers(self) -> None:
        if self.model == "resnet18" and self.hidden:
            raise ValueError(
                f"hidden={self.hidden} is not offered by the model resnet18, which has a single"
                " fully connected layer; leave it out, or choose mlp or cnn"
            )
        num_pixels = IMAGE_SIZE - len(self.channels) * (self.kernel_size - 1)
        if self.model == "cnn" and num_pixels < 2:
            raise ValueError(
                f"kernel_size={self.kernel_size} with {len(self.channels)} convolutions leaves"
                f" nothing of a {IMAGE_SIZE}x{IMAGE_SIZE} image; take a smaller kernel or fewer"
                " channels"
            )


def _widths(name: str, value: Any) -> tuple[Any, ...]:
    """Return widths as a tuple: from a list, a single number, or a str such as "256,128"."""
    if isinstance(value, str):
        try:
            return tuple(int(width) for width in value.split(","))
        except ValueError:
            raise ValueError(
                f"{name}={value!r} is no comma-separated list of whole numbers; write it like"
                " 256,128"
            ) from None
    return tuple(value) if isinstance(value, Sequence) else (value,)
