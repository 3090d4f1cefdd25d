"""The exercises of the notebooks: for each `check_...(your_function)`, which answers in words."""

from nnpar_lib.course.exercises_data import (
    check_accumulation,
    check_mean_over_parts,
    check_momentum,
    check_shards,
)
from nnpar_lib.course.exercises_messages import check_doubling, check_ring
from nnpar_lib.course.exercises_model import check_row_split, check_stage_backward, check_zero_1
from nnpar_lib.course.exercises_regimes import check_regimes, check_time_optimal_batch
from nnpar_lib.course.exercises_schedules import check_1f1b, check_gpipe

__all__ = [
    "check_1f1b",
    "check_accumulation",
    "check_doubling",
    "check_gpipe",
    "check_mean_over_parts",
    "check_momentum",
    "check_regimes",
    "check_ring",
    "check_row_split",
    "check_shards",
    "check_stage_backward",
    "check_time_optimal_batch",
    "check_zero_1",
]
