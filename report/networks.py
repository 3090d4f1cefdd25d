"""The table of the networks that the report trains: computed from the library, not typed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pandas as pd
from chapter import Chapter

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.trainers.tasks.block_work import summarize

TRAINED = ("05_grid", "06_ranks")  # records of runs of every network
NUM_EXAMPLES = 2  # batch normalisation needs more than one


def table(chapter: Chapter) -> pd.DataFrame:
    """Return the layers, parameters, operations, optimizer and learning rate of each network, one
    row a network."""
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for record in (run for name in TRAINED for run in chapter.records(name, elsewhere=True)):
        if isinstance(record, RunRecord):
            config = RunConfig.from_parameters({**record.config, "device": "cpu"})
            key = (config.model, config.hidden, config.channels, config.width)
            if key not in rows:
                rows[key] = {**_row(config), "parameters": record.num_parameters}
    return pd.DataFrame(rows.values()).sort_values("parameters")


def _row(config: RunConfig) -> dict[str, object]:
    plain = config.replace(precision="float32", memory_format="contiguous", convolution="torch")
    blocks = summarize(plain, NUM_EXAMPLES)
    flops = sum(block["flops"] for block in blocks) / NUM_EXAMPLES
    momentum = f" {config.momentum:g}" if config.optimizer in ("momentum", "nesterov") else ""
    return {
        "network": config.model,
        "layers": _layers([block["output"] for block in blocks]),
        "mflop": flops / 1e6,
        "optimizer": f"{config.optimizer}{momentum}",
        "lr": config.lr,
    }


def _layers(outputs: Sequence[Sequence[int]]) -> str:
    """Return the shapes between blocks, such as "1x28x28 - 256 - 128 - 10"; several blocks of one
    shape are counted."""
    shapes = ["x".join(map(str, output)) for output in outputs]
    parts = [f"1x{IMAGE_SIZE}x{IMAGE_SIZE}"]
    for shape, same in groupby(shapes):
        count = len(list(same))
        parts.append(shape if count == 1 else f"{shape} ({count} blocks)")
    return " - ".join(parts)
