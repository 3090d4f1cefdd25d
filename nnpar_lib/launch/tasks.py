"""What ranks can be asked to do: the one table of dotted names, and the types of what comes back.

The kernel side never imports the trainers, so it names their functions; `Engines` has a method for
each task.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypedDict

TASKS = {
    "abort_all_on_error": "nnpar_lib.trainers.tasks.runs.abort_all_on_error",
    "call_user_function": "nnpar_lib.trainers.tasks.user_calls.call_user_function",
    "classify_test_images": "nnpar_lib.trainers.tasks.classify.classify_test_images",
    "compare_parameters": "nnpar_lib.trainers.tasks.verification.compare_parameters",
    "compare_with_serial": "nnpar_lib.trainers.tasks.equality.measure",
    "describe_rank": "nnpar_lib.trainers.tasks.runs.describe_rank",
    "difference_from_serial": "nnpar_lib.trainers.tasks.equality.difference_from_serial",
    "export_data": "nnpar_lib.trainers.tasks.cpp_inputs.export_data",
    "export_start": "nnpar_lib.trainers.tasks.cpp_inputs.export_start",
    "gradient_norms": "nnpar_lib.trainers.tasks.gradient_noise.gradient_norms",
    "measure_rooflines": "nnpar_lib.trainers.tasks.roofline.measure",
    "introduce_rank": "nnpar_lib.launch.environment.introduce_rank",
    "profile_blocks": "nnpar_lib.trainers.tasks.block_profiles.profile_blocks",
    "run_interleaved": "nnpar_lib.trainers.tasks.runs.run_interleaved",
    "run_to_goals": "nnpar_lib.trainers.tasks.goal_run.run_trial_on_ranks",
    "run_trial": "nnpar_lib.trainers.tasks.goal_run.run_trial",
    "seconds_per_event": "nnpar_lib.trainers.tasks.runs.seconds_per_event",
    "summarize_blocks": "nnpar_lib.trainers.tasks.block_work.summarize",
    "sweep_allreduces": "nnpar_lib.trainers.tasks.runs.sweep_allreduces",
    "sweep_barriers": "nnpar_lib.trainers.tasks.barriers.sweep_barriers",
    "sweep_messages": "nnpar_lib.trainers.tasks.runs.sweep_messages",
    "time_trials": "nnpar_lib.trainers.tasks.sweep_timing.measure",
    "verify_packed_step": "nnpar_lib.trainers.tasks.user_steps.verify_packed_step",
    "verify_step": "nnpar_lib.trainers.tasks.user_steps.verify_step",
    "world": "nnpar_lib.trainers.communication.mpi.world",
}


class RankDescription(TypedDict):
    """Who a rank is and what it may use; `sum_of_ranks` is the result of a first all-reduce."""

    rank: int
    size: int
    host: str
    process: int
    cores: list[int]
    sum_of_ranks: int


class GoalOutcome(TypedDict):
    """A run to several goals: the `steps` to each of them, None where it was not reached.

    `train_seconds` and `check_seconds` are those of `num_steps` steps and of `num_checks` checks of
    the validation error.
    """

    steps: list[int | None]
    diverged: bool
    num_steps: int
    train_seconds: float
    check_seconds: float
    num_checks: int


class GradientNorms(TypedDict):
    """Squared norms of the gradient at a step: a rank's own, averaged over ranks, and the batch's.

    `small_batch_size` examples make a rank's own gradient, `big_batch_size` that of all ranks;
    they are drawn from `num_examples`.
    """

    step: int
    small_square_norm: float
    big_square_norm: float
    small_batch_size: int
    big_batch_size: int
    num_examples: int


class Classification(TypedDict):
    """Test images as bytes [N, 28, 28], their labels [N], and the probabilities of the ten digits
    by each network [networks, N, 10], all as NumPy arrays."""

    images: Any
    labels: Any
    probabilities: Any


def load(task: str) -> Callable[..., Any]:
    """Return the function of a task, for a process that is a rank itself."""
    module, _, function = TASKS[task].rpartition(".")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded
