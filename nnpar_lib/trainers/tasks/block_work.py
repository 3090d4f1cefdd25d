"""The parameters of each block of a model, and the operations and bytes of its training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.models import networks

# reads and writes of a parameter, its gradient and its optimizer state in an update
UPDATE_PASSES = {"sgd": 3, "momentum": 5, "nesterov": 5, "adam": 7, "adagrad": 5}


def summarize(
    config: RunConfig, batch_size: int | None = None, *, with_update: bool = True
) -> list[dict[str, Any]]:
    """Return a dict for each block, for a step of `batch_size` examples on one rank.

    The default size is the global batch. `flops` counts multiplications and additions of matrix
    products and convolutions in both passes, as torch's counter does. `bytes` sums what each
    operation of both passes and the update reads and writes in the config's precision: the traffic
    if nothing stayed in a cache. In float32 nothing is computed.
    """
    size = batch_size or config.global_batch_size
    shapes = networks.boundary_shapes(config)
    dtype = getattr(torch, config.dtype)
    device = "meta" if config.precision == "float32" else config.device
    update_passes = UPDATE_PASSES[config.optimizer] if with_update else 0
    rows = []
    for index, block in enumerate(networks.blocks(config)):
        example = torch.empty(
            size, *shapes[index], dtype=dtype, device=device, requires_grad=index > 0
        )
        num_parameters = networks.num_parameters(block)
        flops, num_bytes = _count(networks.network(config, block).to(device), example)
        rows.append(
            {
                "block": index,
                "layers": _describe(block),
                "output": list(shapes[index + 1]),
                "num_parameters": num_parameters,
                "flops": flops,
                "bytes": num_bytes + update_passes * num_parameters * dtype.itemsize,
            }
        )
    return rows


def _count(block: nn.Module, example: Tensor) -> tuple[int, int]:
    with FlopCounterMode(display=False) as flops, ByteCounter() as moved:
        output = block(example)
        output.backward(torch.empty_like(output))
    return flops.get_total_flops(), moved.num_bytes


class ByteCounter(TorchDispatchMode):
    """Sums the bytes of the tensors that each operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count its bytes."""
        results = operation(*args, **(kwargs or {}))
        returns = operation._schema.returns
        alias = returns[0].alias_info if returns else None
        is_view = alias is not None and not alias.is_write
        if not is_view and "empty" not in operation.name():
            for leaf in tree_leaves((args, kwargs, results)):
                self.num_bytes += leaf.nbytes if isinstance(leaf, Tensor) else 0
        return results


def _describe(block: nn.Module) -> str:
    """Return the types of a block's layers, in order."""
    return ", ".join(type(layer).__name__ for layer in block.children())
