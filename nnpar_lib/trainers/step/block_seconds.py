"""The seconds that each block of a model computes, measured before it is cut into stages."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.models import networks


@dataclass(frozen=True)
class BlockProfile:
    """Median seconds of a block's passes over one micro-batch, and its sizes in elements."""

    forward_seconds: float
    backward_seconds: float
    num_parameters: int
    num_output_elements: int

    @property
    def seconds(self) -> float:
        """Both passes together."""
        return self.forward_seconds + self.backward_seconds


def profile(
    config: RunConfig, microbatch_size: int | None = None, num_repeats: int = 7
) -> list[BlockProfile]:
    """Measure each block on an input of ones; return their profiles. One block exists at a time."""
    size = microbatch_size or max(
        1,
        config.global_batch_size
        // (config.num_ranks // config.num_stage_ranks)
        // config.pipeline.num_microbatches,
    )
    shapes = networks.boundary_shapes(config)
    profiles = []
    for index, block in enumerate(map(partial(networks.network, config), networks.blocks(config))):
        example = torch.ones(
            size,
            *shapes[index],
            dtype=getattr(torch, config.dtype),
            device=config.device,
            requires_grad=index > 0,
        )
        leaves = [*block.parameters(), *([example] if index else [])]
        times = [_time_passes(block, example, leaves) for _ in range(num_repeats + 2)][2:]
        forward, backward = (statistics.median(column) for column in zip(*times, strict=True))
        profiles.append(
            BlockProfile(
                forward,
                backward,
                networks.num_parameters(block),
                size * int(torch.Size(shapes[index + 1]).numel()),
            )
        )
    return profiles


def _time_passes(block: nn.Module, example: Tensor, leaves: list[Tensor]) -> tuple[float, float]:
    start = time.perf_counter()
    output = block(example)
    _finish(example)
    middle = time.perf_counter()
    torch.autograd.grad(output, leaves, torch.ones_like(output))
    _finish(example)
    return middle - start, time.perf_counter() - middle


def _finish(example: Tensor) -> None:
    if example.is_cuda:
        torch.cuda.synchronize()
