"""A run as a config describes it, and the same steps serially: how far each parameter ends from
where it has to."""

from __future__ import annotations

import hashlib
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.tasks import equality


def compare_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Take the steps of `difference_from_serial` in parallel and serially (collective).

    Return on the first rank, {} elsewhere: `rows`, the difference of each parameter after the last
    step, with its largest absolute difference, `absolute`, its 2-norm relative to the serial one's,
    `relative`, and that of its first update, `first_update`; the relative difference of the mean
    `loss`; `num_distinct`, how many different copies of the weights there are.
    """
    parallel = RunConfig.from_parameters(config)
    ranks = world()
    group = ranks.first_ranks(parallel.num_ranks)
    compared = {} if group is None else _compare(parallel, group)
    ranks.idle_barrier()
    return compared


def _compare(config: RunConfig, group: Communicator) -> dict[str, Any]:
    place(config, group)
    outcome = equality.train(config, group)
    copies = group.gather_objects(hashlib.sha256(outcome.last_weights.numpy().data).hexdigest())
    compared: dict[str, Any] = {}
    if copies is not None:
        expected = equality.train_serially(equality.serial_twin(config))
        compared = {
            "rows": _rows(config, outcome, expected),
            "loss": abs(outcome.mean_loss - expected.mean_loss) / expected.mean_loss,
            "num_distinct": len(set(copies)),
        }
    group.idle_barrier()  # the first rank trains serially meanwhile
    return compared


def _rows(
    config: RunConfig, outcome: equality.Outcome, expected: equality.Outcome
) -> list[dict[str, Any]]:
    """Return a row for each parameter, in the order of the model."""
    named = list(networks.build(config).named_parameters())
    start = equality.flat(parameter for _, parameter in named)
    sizes = [parameter.numel() for _, parameter in named]
    updates = (outcome.first_weights - start).split(sizes)
    expected_updates = (expected.first_weights - start).split(sizes)
    rows = []
    for i, (value, reference) in enumerate(
        zip(outcome.last_weights.split(sizes), expected.last_weights.split(sizes), strict=True)
    ):
        rows.append(
            {
                "parameter": named[i][0],
                "num_elements": sizes[i],
                "absolute": float((value.double() - reference.double()).abs().max()),
                "relative": equality.relative(value, reference),
                "first_update": equality.relative(updates[i], expected_updates[i]),
            }
        )
    return rows
