"""What a run keeps and watches beside the training itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnpar_lib.config.option import BOOKKEEPING, Section, option
from nnpar_lib.config.spread import NATIVE_STRATEGIES, STRATEGIES

IN_PYTHON = tuple(name for name in STRATEGIES if name not in NATIVE_STRATEGIES)

MAX_BUDGET_MIB = 2**40  # an exbibyte: limits in bytes are whole numbers of 64 bits
MAX_WARMUP_STEPS = 100_000  # they are no training; more would only be a run that never begins


@dataclass(frozen=True, kw_only=True)
class Keeping(Section):
    """Checkpoints, limits, traces and the steps before the clock starts."""

    checkpoint: str | None = option(
        None,
        "file that keeps the state of the run, and that a run which was interrupted "
        "goes on from (default: none)",
        role=BOOKKEEPING,
        read_by={"strategy": IN_PYTHON},
        native=(None,),
        tells_runs_apart=False,
    )
    checkpoint_every: float = option(
        60.0,
        "seconds between two checkpoints; there is one at the end too",
        role=BOOKKEEPING,
        read_by={"strategy": IN_PYTHON},
        tells_runs_apart=False,
    )
    stall_seconds: float = option(
        60.0,
        "seconds that a rank waits for others before it ends the run and says who is "
        "missing; 0: for ever",
        role=BOOKKEEPING,
        tells_runs_apart=False,
    )
    memory_budget_mib: int = option(
        0,
        "MiB that each rank may allocate for the run, enforced; 0 sets no limit",
        role=BOOKKEEPING,
        read_by={"strategy": IN_PYTHON},
        minimum=0,
        maximum=MAX_BUDGET_MIB,
    )
    num_traced_steps: int = option(
        0,
        "steps, the last ones, whose events on each rank are kept in the record",
        role=BOOKKEEPING,
        read_by={"strategy": IN_PYTHON},
        minimum=0,
    )
    num_warmup_steps: int = option(
        5,
        "steps taken and undone before the clock starts",
        role=BOOKKEEPING,
        minimum=0,
        maximum=MAX_WARMUP_STEPS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoint_every", "stall_seconds"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name}={seconds} is no number of seconds; 60 is usual")
