"""How quiet a machine is while it is measured: the load of other processes, and runs that should
be alike."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from nnpar_lib.analysis.cost.blind import TWO_RANKS
from nnpar_lib.config import RunConfig
from nnpar_lib.experiments.survey import groups
from nnpar_lib.experiments.survey.group import NOISE, Place
from nnpar_lib.launch.engines import Engines, engines
from nnpar_lib.records import store
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.records.provenance import INITIAL_CORES, num_cores

MODELS = ("mlp", "cnn")
NUM_STEPS = {"mlp": 150, "cnn": 6}  # about a fifth of a second on one core
NUM_REPEATS = 6  # the fewest that have an interval
MAX_RANKS = 2
BUSY = 0.15  # the share of its cores above which a machine is disturbed
MAX_WAIT_SECONDS = 60.0
SAMPLE_SECONDS = 1.0


def busy_cores(seconds: float = SAMPLE_SECONDS) -> float:
    """Return how many of the cores of this process were busy on average over some seconds.

    Whoever calls it does nothing meanwhile, so others are: other processes, and the host of a
    virtual machine, which takes cores away from it.
    """
    percents = psutil.cpu_percent(interval=seconds, percpu=True)
    return sum(percents[core] for core in INITIAL_CORES if core < len(percents)) / 100


def wait_until_quiet(max_seconds: float = MAX_WAIT_SECONDS) -> dict[str, Any]:
    """Wait until others leave the cores alone, but no longer than `max_seconds`.

    Return the cores that were `busy_cores` at the end, the `waited_seconds`, and whether the
    machine is still `disturbed`. Says so when it waits, and when it gives up.
    """
    start = time.monotonic()
    busy = busy_cores()
    is_waiting = False
    while busy > BUSY * num_cores() and time.monotonic() - start < max_seconds:
        if not is_waiting:
            print(f"{_described(busy)}: waiting up to {max_seconds:.0f} s for quiet", flush=True)
        is_waiting = True
        busy = busy_cores()
    waited = time.monotonic() - start if is_waiting else 0.0
    disturbed = busy > BUSY * num_cores()
    if disturbed:
        print(f"{_described(busy)} after {waited:.0f} s: measuring all the same", flush=True)
    return {
        "busy_cores": round(busy, 2),
        "waited_seconds": round(waited, 1),
        "disturbed": disturbed,
    }


def _described(busy: float) -> str:
    return f"disturbed: others keep {busy:.1f} of {num_cores()} cores busy"


def measure(
    dataset: str, out: Path, moment: str, load: Mapping[str, Any] | None = None
) -> list[RunRecord]:
    """Measure the same run twice and independent runs at once, of each model; append the records.

    The provenance of each has a `campaign`: the `moment`, when that was, and the `load` that
    `wait_until_quiet` returned.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    origin = {"campaign": {"moment": moment, "at": now, **(load or {})}}
    place = Place(
        num_cores=min(MAX_RANKS, num_cores()),
        num_node_cores=num_cores(),
        dataset=dataset,
        models=MODELS,
    )
    with engines(place.num_cores) as ranks:
        records = [
            dataclasses.replace(record, provenance={**record.provenance, **origin})
            for group in groups.groups(place, (NOISE,))
            for record in _measure_group(ranks, group.experiment, group.configs)
        ]
    store.append(out, records)
    return records


def _measure_group(
    ranks: Engines, experiment: str, configs: Mapping[str, RunConfig]
) -> list[RunRecord]:
    """Return interleaved repeats of short runs; two ranks that wait for each other are left out."""
    short = {
        label: config.replace(num_steps=NUM_STEPS[config.model])
        for label, config in configs.items()
        if label != TWO_RANKS
    }
    return ranks.run_interleaved(
        short, num_repeats=NUM_REPEATS, experiment=experiment, progress=lambda *_: None
    )
