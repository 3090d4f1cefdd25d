"""The lists of runs that notebooks compare, where a list is only bookkeeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.launch.notebook import choose

UNTIL_STOPPED: dict[str, Any] = {"num_epochs": 1000, "lr": 0.01, "evaluate_every": 0}


def on_threads(dataset: str, thread_counts: Sequence[int], preset: str) -> list[RunConfig]:
    """Return serial runs of the mlp and the cnn for each number of threads."""
    steps = choose(preset, quick={"mlp": 120, "cnn": 6}, full={"mlp": 300, "cnn": 12})
    return [
        RunConfig(
            dataset=dataset,
            model=model,
            num_threads=threads,
            global_batch_size=batch,
            num_steps=steps[model],
            **UNTIL_STOPPED,
        )
        for model, batch in (("mlp", 64), ("mlp", 512), ("cnn", 64))
        for threads in thread_counts
    ]
