"""How the statistics of batch normalisation travel between ranks: shared memory, or messages."""

from __future__ import annotations

from torch import nn

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.shared_sums import SharedSums
from nnpar_lib.trainers.models.batch_norm import BatchNorm
from nnpar_lib.trainers.models.sharding import Exchange
from nnpar_lib.trainers.models.sums import Sums
from nnpar_lib.trainers.timeline import Timeline


def synchronise(
    model: nn.Module, config: RunConfig, communicator: Communicator, timeline: Timeline
) -> Sums:
    """Let a model's normalisations take statistics over these ranks, where the config asks for it.

    Return what they exchange through, which has to be freed (collective). With `allreduce`
    "shared", statistics on a CPU pass through memory if all ranks are on one node.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    exchange: Sums = Exchange(communicator, timeline)
    if config.batch_norm != "synchronised" or communicator.size == 1 or not layers:
        return exchange
    through_memory = config.allreduce == "shared" and config.device == "cpu"
    if through_memory and communicator.node.size == communicator.size:
        num_elements = 2 * max(layer.num_features for layer in layers) + 1
        exchange = SharedSums(communicator.node, num_elements, timeline)
    for layer in layers:
        layer.exchange = exchange
    return exchange
