"""The kinds of records, one class each: what was asked, what was measured, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
CONTROL = "control"  # the label of what repeats another measurement of the same call


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A training run: what was asked (`config`), the results, and their origin (`provenance`).

    Times are seconds of training, evaluation excluded. `train_seconds` is the maximum over ranks;
    `compute_seconds`, `communicate_seconds`, `wait_seconds` and `activity_seconds`, which splits
    them further, are means over ranks. `wait_seconds` is spent at the barrier before an exchange,
    and None where an exchange has no such barrier. `num_examples` counts the examples that were
    trained on, over all ranks. `history` has an entry an epoch: epoch, step, train_seconds,
    train_loss, test_accuracy. `events` holds, for each rank, lists of activity, stage, micro-batch,
    start and end in seconds since a barrier, for the last `num_traced_steps` steps. `memory` has
    for each rank the bytes of its parameters, gradients, optimizer state and activations at their
    peak; `sharded` adds the places of whole `blocks` that come and go.
    `gpu` says which one it is, how many ranks share it, and in `peak_bytes` the most that
    tensors of a rank held on it; it is empty on a CPU. `tuning`
    holds what `tune` measured and chose, where `config` asks for it. `label` is what the experiment
    calls this config, if anything. `divergence` has the step, counted from 1, whose loss was the
    first that is not finite, and its learning rate; the run ended there. `resumed_at` has the steps
    at which the run went on from a checkpoint; `train_seconds` are those of all its parts.
    """

    strategy: str
    model: str
    dataset: str
    num_ranks: int
    threads_per_rank: int
    global_batch_size: int
    optimizer: str
    num_steps: int
    num_examples: int
    train_seconds: float
    samples_per_second: float
    compute_seconds: float
    communicate_seconds: float
    wait_seconds: float | None
    activity_seconds: dict[str, float]
    final_train_loss: float | None
    final_test_accuracy: float | None
    diverged: bool
    weights_sha256: str
    num_parameters: int
    oversubscribed: bool
    bound: bool
    config: dict[str, Any]
    provenance: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)
    tuning: dict[str, Any] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)
    divergence: dict[str, float] | None = None
    resumed_at: list[int] = field(default_factory=list)
    experiment: str = ""
    label: str = ""
    repeat: int = 0
    kind: str = "run"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class AllreduceRecord:
    """Seconds of an all-reduce of `num_elements` numbers, for each repeat.

    The seconds of a repeat are a mean over many all-reduces, and the maximum over ranks. `label` is
    "control" where the same was measured before in the same call.
    """

    allreduce: str
    num_ranks: int
    num_elements: int
    dtype: str
    seconds: list[float]
    provenance: dict[str, Any]
    oversubscribed: bool
    experiment: str = ""
    label: str = ""
    kind: str = "allreduce"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class MessageRecord:
    """Seconds of a message of `num_bytes` between two ranks, for each repeat.

    The seconds of a repeat are half of the mean round trip. `exchange_seconds` are those of a
    message in each direction at once, of numbers that have just been changed, and `add_seconds`
    those of adding so many bytes of float32.
    """

    num_bytes: int
    seconds: list[float]
    provenance: dict[str, Any]
    oversubscribed: bool
    exchange_seconds: list[float] = field(default_factory=list)
    add_seconds: list[float] = field(default_factory=list)
    experiment: str = ""
    kind: str = "message"
    schema: int = SCHEMA


# How tensor parallelism splits a layer over ranks.
WHOLE = "whole"
BY_OUTPUT = "by output"
BY_INPUT = "by input"


@dataclass(frozen=True, kw_only=True)
class ProfileRecord:
    """The cost of each block of a model for `batch_size` examples, on `num_ranks` ranks at once.

    Seconds are medians over steps and means over ranks: of each block's forward and backward pass,
    of loading a batch, of the update and of clearing the gradient. `num_output_elements` and
    `num_layer_elements`, before activation and pooling, are those of one example; `splits` says how
    tensor parallelism cuts each block.
    """

    model: str
    num_ranks: int
    batch_size: int
    forward_seconds: list[float]
    backward_seconds: list[float]
    load_seconds: float
    update_seconds: float
    clear_seconds: float
    num_parameters: list[int]
    num_output_elements: list[int]
    num_layer_elements: list[int]
    splits: list[str]
    config: dict[str, Any]
    provenance: dict[str, Any]
    oversubscribed: bool
    experiment: str = ""
    repeat: int = 0
    kind: str = "profile"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class RooflineRecord:
    """The work and the seconds of each block of a model for a batch, and two ceilings.

    `blocks` are dicts as `trainers.tasks.block_work` makes them, with the `seconds` of both passes.
    The ceilings are the rate of a large matrix product and that of a large copy, which reads and
    writes, in the same process.
    """

    model: str
    precision: str
    memory_format: str
    batch_size: int
    num_threads: int
    ceiling_flop_per_second: float
    bytes_per_second: float
    blocks: list[dict[str, Any]]
    config: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    repeat: int = 0
    kind: str = "roofline"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A run to goals: the `steps` to each of `goal_errors`, None where it was not reached.

    `train_seconds` are those of all `num_steps`, the checks of the validation error excluded.
    """

    goal_errors: list[float]
    steps: list[int | None]
    num_steps: int
    train_seconds: float
    diverged: bool
    config: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    repeat: int = 0
    kind: str = "trial"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class NormsRecord:
    """Squared norms of gradients at steps of a run, before and after the sum over ranks.

    See `trainers.tasks.gradient_noise`.
    """

    norms: list[dict[str, Any]]
    config: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    kind: str = "norms"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """How far a parallel run ends from a serial one on the same device.

    See `trainers.tasks.equality`.
    """

    differences: dict[str, float]
    config: dict[str, Any]
    gpu: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    kind: str = "comparison"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """Seconds of a whole sweep of trials, from building the models to the last loss.

    `label` says how they are trained: one at a time, or together. `config` is the first trial's;
    the others differ in learning rate and seed. `final_losses` has each trial's mean loss of its
    last batch.
    """

    label: str
    num_trials: int
    num_steps: int
    seconds: float
    final_losses: list[float]
    config: dict[str, Any]
    gpu: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    repeat: int = 0
    kind: str = "sweep"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class SweepSpeedRecord:
    """Seconds of a whole study of scaling regimes on `num_ranks` engines that have loaded the data.

    `engine_seconds` is the sum of what its `num_runs` runs spent on training and on checks: the
    rest of the engines' time is waiting. `study` is what was asked; the first records lack it.
    """

    num_ranks: int
    num_runs: int
    seconds: float
    engine_seconds: float
    provenance: dict[str, Any]
    study: dict[str, Any] = field(default_factory=dict)
    experiment: str = ""
    repeat: int = 0
    kind: str = "sweep_speed"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class TrialStepRecord:
    """Seconds of a step of `batch_size` examples: of a bare serial run, and of a trial to a goal.

    `with_checks_seconds` includes the trial's checks of the validation error. `config` is the run;
    the first records lack it.
    """

    batch_size: int
    bare_seconds: float
    trial_seconds: float
    with_checks_seconds: float
    provenance: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    experiment: str = ""
    repeat: int = 0
    kind: str = "trial_step"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class BarrierRecord:
    """Seconds of a barrier of `num_ranks` ranks, for each repeat: a mean over many barriers."""

    num_ranks: int
    seconds: list[float]
    provenance: dict[str, Any]
    oversubscribed: bool
    experiment: str = ""
    kind: str = "barrier"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class MachineRecord:
    """The machine of a survey, written when a slice of it begins: its name, and what is there.

    A slice is one call of the survey, of `minutes`; `parts` are those that it was asked for. Every
    record that a slice makes has in its provenance, as `survey`, the name of the machine, the
    number of the slice and what was known of the machine's noise by then.
    """

    name: str
    slice: int
    minutes: float
    parts: list[str]
    description: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    kind: str = "machine"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """The seconds of a step that were predicted for a config before it ran for the first time.

    `basis` says from what; None are the seconds of a config for which there is no model.
    `waiting_seconds` of them are those of waiting for the last rank. `provenance` has the time.
    """

    predicted_seconds: float | None
    waiting_seconds: float
    basis: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    label: str = ""
    kind: str = "prediction"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """A measurement that failed: what it was of, and the error that ended it.

    `config` is that of the run that failed, empty where no single run did.
    """

    cause: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    experiment: str = ""
    label: str = ""
    kind: str = "failure"
    schema: int = SCHEMA


Record = (
    RunRecord
    | AllreduceRecord
    | MessageRecord
    | ProfileRecord
    | RooflineRecord
    | TrialRecord
    | NormsRecord
    | ComparisonRecord
    | SweepRecord
    | SweepSpeedRecord
    | TrialStepRecord
    | BarrierRecord
    | MachineRecord
    | PredictionRecord
    | FailureRecord
)
KINDS: dict[str, type[Record]] = {
    "run": RunRecord,
    "allreduce": AllreduceRecord,
    "message": MessageRecord,
    "profile": ProfileRecord,
    "roofline": RooflineRecord,
    "trial": TrialRecord,
    "norms": NormsRecord,
    "comparison": ComparisonRecord,
    "sweep": SweepRecord,
    "sweep_speed": SweepSpeedRecord,
    "trial_step": TrialStepRecord,
    "barrier": BarrierRecord,
    "machine": MachineRecord,
    "prediction": PredictionRecord,
    "failure": FailureRecord,
}
