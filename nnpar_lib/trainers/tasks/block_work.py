"""What each block of a model has and needs: parameters, and the operations and bytes of a training
step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.models import networks

UPDATE_PASSES = {
    "sgd": 3,
    "momentum": 5,
    "nesterov": 5,
    "adam": 7,
    "adagrad": 5,
}  # reads and writes a parameter


def summarize(
    config: RunConfig, batch_size: int | None = None, *, with_update: bool = True
) -> list[dict[str, Any]]:
    """Return a dict a block, for steps of `batch_size` examples (default: the global batch) on one
    rank.

    `flops` counts the multiplications and additions of products and convolutions, forward and
    backward, as torch's counter does. `bytes` is what the operations of both passes and the update
    read and write, each by itself, in the config's precision: what has to move where nothing stays
    in a cache. In float32 nothing is computed.
    """
    size = batch_size or config.global_batch_size
    shapes, found = networks.boundary_shapes(config), []
    dtype, device = (
        getattr(torch, config.dtype),
        "meta" if config.precision == "float32" else config.device,
    )
    for index, block in enumerate(networks.blocks(config)):
        example = torch.empty(
            size, *shapes[index], dtype=dtype, device=device, requires_grad=index > 0
        )
        num_parameters = networks.num_parameters(block)
        flops, num_bytes = _count(networks.network(config, block).to(device), example)
        found.append(
            {
                "block": index,
                "layers": _describe(block),
                "output": list(shapes[index + 1]),
                "num_parameters": num_parameters,
                "flops": flops,
                "bytes": (
                    num_bytes
                    + with_update
                    * UPDATE_PASSES[config.optimizer]
                    * num_parameters
                    * dtype.itemsize
                ),
            }
        )
    return found


def _count(block: nn.Module, example: Tensor) -> tuple[int, int]:
    with FlopCounterMode(display=False) as flops, ByteCounter() as moved:
        output = block(example)
        output.backward(torch.empty_like(output))
    return flops.get_total_flops(), moved.num_bytes


class ByteCounter(TorchDispatchMode):
    """Adds up the bytes of the tensors that each operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count it."""
        results = operation(*args, **(kwargs or {}))
        returns = operation._schema.returns
        is_view = (
            bool(returns)
            and returns[0].alias_info is not None
            and not returns[0].alias_info.is_write
        )
        if not is_view and "empty" not in operation.name():
            self.num_bytes += sum(
                tensor.nbytes
                for tensor in tree_leaves((args, kwargs, results))
                if isinstance(tensor, Tensor)
            )
        return results


def _describe(block: nn.Module) -> str:
    """Return the types of the layers that a block is made of, in their order."""
    return ", ".join(type(layer).__name__ for layer in block.children())
