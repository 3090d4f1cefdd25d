"""The training: data, batches, steps and the update rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnpar_lib.config.option import BOOKKEEPING, METHOD, PROBLEM, Section, option
from nnpar_lib.config.spread import STRATEGIES

DATASETS = ("digits", "mnist", "fashion_mnist")
NUM_TRAINING_EXAMPLES = {"digits": 12_000, "mnist": 60_000, "fashion_mnist": 60_000}
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adagrad")
# numbers that each keeps for a weight
OPTIMIZER_VALUES = {"sgd": 0, "momentum": 1, "nesterov": 1, "adagrad": 1, "adam": 2}
WITH_MOMENTUM = ("momentum", "nesterov")
LR_SCHEDULES = ("constant", "linear", "cosine")
DATA_LOADINGS = ("memory", "loader")


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """What the network learns from, in how many steps, and how weights are updated."""

    dataset: str = option(
        "digits", "the data set; digits needs no download", DATASETS, role=PROBLEM
    )
    data_loading: str = option(
        "memory",
        "memory: the set lies in memory as uint8; loader: torch's DataLoader with "
        "ToTensor and Normalize, image by image",
        DATA_LOADINGS,
        role=METHOD,
        read_by={"strategy": [name for name in STRATEGIES if name != "tutorial"]},
        native=("memory",),
    )
    global_batch_size: int = option(128, "examples a step, over all ranks", role=PROBLEM, minimum=1)
    num_epochs: int = option(
        1, "passes over the training set", role=PROBLEM, minimum=1, changes_rate=False
    )
    num_steps: int | None = option(
        None,
        "stop after this many steps, even in the middle of an epoch",
        role=PROBLEM,
        minimum=1,
        changes_rate=False,
    )
    optimizer: str = option(
        "momentum", "the update rule", OPTIMIZERS, role=PROBLEM, native=("sgd", "momentum")
    )
    lr: float = option(0.1, "learning rate", role=PROBLEM, changes_rate=False)
    momentum: float = option(
        0.9,
        "share of the last update that is added to the next one",
        role=PROBLEM,
        read_by={"optimizer": WITH_MOMENTUM},
        changes_rate=False,
    )
    lr_schedule: str = option(
        "constant",
        "how the learning rate falls over the run: not at all, linearly or by a cosine to zero",
        LR_SCHEDULES,
        role=PROBLEM,
        changes_rate=False,
    )
    evaluate_every: int = option(
        1, "epochs between two evaluations on the test set; 0: never", role=BOOKKEEPING, minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(
                f"lr={self.lr} is not a positive number; try 0.1 for momentum or 0.001 for adam"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} is outside [0, 1); 0.9 is usual")
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise ValueError(
                "momentum=0 leaves optimizer='nesterov' nothing to look ahead with; use"
                " optimizer='sgd', or a larger momentum"
            )
        num_examples = NUM_TRAINING_EXAMPLES[self.dataset]
        if self.global_batch_size > num_examples:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is larger than the {num_examples}"
                f" training examples of {self.dataset}; take at most {num_examples}"
            )

    @property
    def num_steps_per_epoch(self) -> int:
        """Steps in one pass over the training set, a last short batch included."""
        return math.ceil(NUM_TRAINING_EXAMPLES[self.dataset] / self.global_batch_size)

    @property
    def total_steps(self) -> int:
        """Steps that the run takes."""
        steps = self.num_epochs * self.num_steps_per_epoch
        return steps if self.num_steps is None else min(steps, self.num_steps)

    @property
    def meets_short_batch(self) -> bool:
        """Whether the run reaches the short batch that ends an epoch."""
        is_uneven = NUM_TRAINING_EXAMPLES[self.dataset] % self.global_batch_size > 0
        return is_uneven and self.total_steps >= self.num_steps_per_epoch
