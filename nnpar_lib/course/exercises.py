"""The exercises of the notebooks: for each `check_...(your_function)`, which answers in words."""

from nnpar_lib.course.exercises_cost import (
    check_message_cost,
    check_ring_seconds,
    check_training_flops,
)
from nnpar_lib.course.exercises_data import (
    check_accumulation,
    check_mean_over_parts,
    check_momentum,
    check_shards,
)
from nnpar_lib.course.exercises_messages import check_doubling, check_ring
from nnpar_lib.course.exercises_model import check_row_split, check_stage_backward, check_zero_1
from nnpar_lib.course.exercises_nodes import check_two_levels
from nnpar_lib.course.exercises_regimes import check_regimes, check_time_optimal_batch
from nnpar_lib.course.exercises_rounding import (
    check_master_weights,
    check_rounding,
    check_statistics,
)
from nnpar_lib.course.exercises_schedules import check_1f1b, check_gpipe

__all__ = [
    "check_1f1b",
    "check_accumulation",
    "check_doubling",
    "check_gpipe",
    "check_master_weights",
    "check_mean_over_parts",
    "check_message_cost",
    "check_momentum",
    "check_regimes",
    "check_ring",
    "check_ring_seconds",
    "check_rounding",
    "check_row_split",
    "check_shards",
    "check_stage_backward",
    "check_statistics",
    "check_time_optimal_batch",
    "check_training_flops",
    "check_two_levels",
    "check_zero_1",
]
