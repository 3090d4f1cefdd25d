"""What a strategy trains with: a replica of the model and a source of batches.

The code of recorded steps is imported only for a config that asks for them.
"""

from __future__ import annotations

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.data.batches import Batches, batch_source, load
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import Timeline


def build_replica(config: RunConfig, timeline: Timeline) -> Replica:
    """Return a replica of the model; its steps are recorded where the config says so."""
    if in_graphs(config):
        from nnpar_lib.trainers.step.cuda_graph import RecordedReplica

        return RecordedReplica(config, timeline)
    if config.record:
        from nnpar_lib.trainers.step.operations import OperationReplica

        return OperationReplica(config, timeline)
    return Replica(config, timeline)


def build_batches(config: RunConfig, size: int, rank: int) -> Batches:
    """Return the source of the batches of one of `size` parts; a GPU records their loading, too."""
    if in_graphs(config):
        from nnpar_lib.trainers.step.cuda_graph import RecordedBatches

        return RecordedBatches(config, size, rank)
    return batch_source(load(config.dataset), config, size, rank)


def in_graphs(config: RunConfig) -> bool:
    """Return whether steps are recorded as CUDA graphs."""
    return config.record and config.device == "cuda"
