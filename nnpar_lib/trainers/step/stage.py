"""A stage of a pipeline: consecutive blocks of the model, whose live micro-batches each have
buffers of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib import parts
from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step import block_seconds

OnGradient = Callable[[int], None]


class Stage:
    """Consecutive blocks that compute one micro-batch after the other, forward and backward.

    The blocks come in segments; the backward pass goes segment by segment, so that the gradient of
    the later ones can travel while that of the earlier ones is still computed. What a forward pass
    keeps belongs to its micro-batch and is let go by its backward pass.
    """

    def __init__(
        self, segments: Sequence[nn.Sequential], gradients: Sequence[list[Tensor]]
    ) -> None:
        self.segments = segments
        self._parameters = [list(segment.parameters()) for segment in segments]
        self._gradients = gradients
        self._live: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def forward(self, microbatch: int, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the stage makes of its input: activations, or the sum of losses where labels
        are given."""
        kept = []
        for index, segment in enumerate(self.segments):
            is_first_input = index == 0 and not images.requires_grad
            inputs = images if is_first_input else images.detach().requires_grad_()
            images = segment(inputs)
            if labels is not None and index == len(self.segments) - 1:
                images = functional.cross_entropy(images, labels, reduction="sum")
            kept.append((inputs, images))
        self._live[microbatch] = kept
        return images.detach()

    def backward(
        self, microbatch: int, gradient: Tensor, on_gradient: OnGradient | None = None
    ) -> Tensor | None:
        """Add to the gradients of the parameters; return that of the input, None where the input
        needs none.

        `on_gradient` hears of each segment whose parameters have got what this micro-batch adds to
        them.
        """
        kept = self._live.pop(microbatch)
        for index in reversed(range(len(self.segments))):
            inputs, output = kept.pop()
            parameters = self._parameters[index]
            wanted = [*parameters, inputs] if inputs.requires_grad else parameters
            found = torch.autograd.grad(output, wanted, gradient)
            torch._foreach_add_(self._gradients[index], found[: len(parameters)])
            if on_gradient is not None:
                on_gradient(index)
            gradient = found[-1]
        return gradient if inputs.requires_grad else None

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return what the stage makes of its input, and keep nothing."""
        with networks.evaluating(*self.segments):
            for segment in self.segments:
                images = segment(images)
        return images


def stage_bounds(config: RunConfig, communicator: Communicator) -> list[slice]:
    """Return the blocks of each stage, the same on all ranks.

    Collective where the balance is measured: rank 0 profiles the blocks and broadcasts the profile.
    """

    def measured_seconds() -> list[float]:
        profile = block_seconds.profile(config) if communicator.rank == 0 else None
        return [block.seconds for block in communicator.broadcast_object(profile)]

    num_stages = config.pipeline.num_stages
    return parts.stage_bounds(config.balance, config.num_blocks, num_stages, measured_seconds)
