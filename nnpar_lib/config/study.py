"""The parameters of a study of scaling regimes: goals, batch sizes, trials and seeds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from nnpar_lib.config.option import check_limits, check_type, describe, option
from nnpar_lib.config.run import RunConfig
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES, WITH_MOMENTUM

NUM_VALIDATION_EXAMPLES = {"digits": 1_000, "mnist": 5_000, "fashion_mnist": 5_000}
# Learning rates are searched around lr_max / (1 + B* / B): proportional to the size of small
# batches, constant for large ones.
LR_MAX = {"sgd": 0.4, "momentum": 0.1, "nesterov": 0.1, "adam": 0.004, "adagrad": 0.04}
LR_KNEE = 128.0  # B*, in examples
LR_FACTOR = 10.0  # from the centre of the range to either end
MOMENTUM_RANGE = (0.02, 1.0)  # of one minus momentum


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The parameters of a study of the steps to goal errors against the batch size.

    Metaparameters are tuned at each batch size.
    A wrong value raises a ValueError that names it and says what would be right.
    """

    dataset: str = option(
        "digits", "the data set; a part of its training set becomes the validation set"
    )
    model: str = option("mlp", "the network")
    channels: tuple[int, ...] = option((32, 64), "channels of the convolutions of the cnn")
    optimizer: str = option(
        "sgd", "the update rule, whose metaparameters are searched at each batch size"
    )
    goal_errors: tuple[float, ...] = option((0.1, 0.05), "validation errors to reach, falling")
    batch_sizes: tuple[int, ...] = option((4, 16, 64, 256, 1024), "global batch sizes")
    num_trials: int = option(
        20, "metaparameter points tried at each batch size, the same in each", minimum=1
    )
    num_finalists: int = option(
        3, "best trials that run again, of which the best median wins", minimum=1
    )
    num_finalist_seeds: int = option(3, "seeds that each finalist runs on", minimum=1)
    num_seeds: int = option(10, "fresh seeds that the winner runs on, for the estimate", minimum=1)
    max_steps: int = option(
        600,
        "step cap of very large batches; that of batch size B is this times (1 + 256/B)",
        minimum=1,
    )

    def __post_init__(self) -> None:
        for name in ("goal_errors", "batch_sizes", "channels"):
            value = getattr(self, name)
            values = tuple(value) if isinstance(value, list | tuple) else (value,)
            object.__setattr__(self, name, values)
        self._check_fields()
        self._check_goals()
        self._check_batch_sizes()

    def to_json(self) -> str:
        """Return the parameters as one line: what tells a study from another."""
        return json.dumps(dataclasses.asdict(self))

    def run_config(
        self, batch_size: int, lr: float, one_minus_momentum: float | None, seed: int
    ) -> RunConfig:
        """Return the training run of a trial: serial, one thread, no evaluations but those of the
        trial itself."""
        momentum: dict[str, Any] = (
            {} if one_minus_momentum is None else {"momentum": 1 - one_minus_momentum}
        )
        return RunConfig(
            strategy="serial",
            model=self.model,
            channels=self.channels,
            dataset=self.dataset,
            optimizer=self.optimizer,
            lr=lr,
            global_batch_size=batch_size,
            seed=seed,
            num_threads=1,
            binding="none",
            **momentum,
        )

    def search_ranges(self, batch_size: int) -> dict[str, tuple[float, float]]:
        """Return the range of each metaparameter that the first round of trials covers,
        log-uniformly."""
        centre = LR_MAX[self.optimizer] / (1 + LR_KNEE / batch_size)
        ranges = {"lr": (centre / LR_FACTOR, centre * LR_FACTOR)}
        return ranges | (
            {"one_minus_momentum": MOMENTUM_RANGE} if self.optimizer in WITH_MOMENTUM else {}
        )

    def step_cap(self, batch_size: int) -> int:
        """Return the steps after which a run is given up."""
        return round(self.max_steps * (1 + 256 / batch_size))

    def _check_fields(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "goal_errors":  # which has a check of its own
                check_type(field.name, str(field.type), value)
            check_limits(field.name, value, describe(field))

    def _check_goals(self) -> None:
        goals = self.goal_errors
        if not goals or not all(isinstance(goal, float) and 0 < goal < 1 for goal in goals):
            raise ValueError(
                f"goal_errors={_shown(goals)} must be fractions between 0 and 1; write them like"
                " 0.1,0.05"
            )
        if list(goals) != sorted(set(goals), reverse=True):
            raise ValueError(
                f"goal_errors={_shown(goals)} do not fall; write each once, the easiest first"
            )

    def _check_batch_sizes(self) -> None:
        sizes = self.batch_sizes
        if not sizes:
            raise ValueError(
                "batch_sizes is empty; write some like 4,16,64 or 4:8192 for the powers of two"
                " between"
            )
        if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(
                f"batch_sizes={_shown(sizes)} do not rise from at least 1; write each once"
            )
        RunConfig(
            dataset=self.dataset, model=self.model, channels=self.channels, optimizer=self.optimizer
        )
        num_examples = NUM_TRAINING_EXAMPLES[self.dataset] - NUM_VALIDATION_EXAMPLES[self.dataset]
        if sizes[-1] > num_examples:
            raise ValueError(
                f"batch size {sizes[-1]} is larger than the {num_examples} examples of"
                f" {self.dataset} that are left beside the validation set; take smaller ones"
            )


def powers_of_two(first: int, last: int) -> tuple[int, ...]:
    """Return first, twice that, and so on up to last."""
    if not 1 <= first <= last:
        raise ValueError(f"batch sizes from {first} to {last} are none; write them like 4:8192")
    return tuple(first * 2**k for k in range((last // first).bit_length()))


def _shown(values: tuple[Any, ...]) -> str:
    return ",".join(map(str, values))
