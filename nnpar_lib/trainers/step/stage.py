"""A stage of a pipeline: consecutive blocks of the model, with buffers for each live
micro-batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib import parts
from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step import block_seconds
from nnpar_lib.trainers.step.split_backward import SplitBackward, WeightPass, kept_bytes

OnGradient = Callable[[int], None]


class Stage:
    """Consecutive blocks that compute one micro-batch after the other, forward and backward.

    The blocks form segments. The backward pass goes segment by segment, so that the gradients of
    later segments can be exchanged while those of earlier ones are computed. What a forward pass
    saves belongs to its micro-batch; its backward pass frees it.
    """

    def __init__(
        self, segments: Sequence[nn.Sequential], gradients: Sequence[list[Tensor]]
    ) -> None:
        self.segments = segments
        self._parameters = [list(segment.parameters()) for segment in segments]
        self._gradients = gradients
        self._live: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._splits = [SplitBackward(segment) for segment in segments]
        self._waiting: dict[int, list[list[WeightPass]]] = {}
        self.most_waiting_bytes = 0  # of gradients between the parts of split backward passes

    def forward(self, microbatch: int, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the stage's activations, or the sum of losses where labels are given."""
        saved = []
        for index, segment in enumerate(self.segments):
            is_first_input = index == 0 and not images.requires_grad
            inputs = images if is_first_input else images.detach().requires_grad_()
            images = segment(inputs)
            if labels is not None and index == len(self.segments) - 1:
                images = functional.cross_entropy(images, labels, reduction="sum")
            saved.append((inputs, images))
        self._live[microbatch] = saved
        return images.detach()

    def backward(
        self, microbatch: int, gradient: Tensor, on_gradient: OnGradient | None = None
    ) -> Tensor | None:
        """Add to the gradients of the parameters; return that of the input, if it needs one.

        `on_gradient` is called with the index of each segment whose gradients are complete for this
        micro-batch.
        """
        saved = self._live.pop(microbatch)
        for index in reversed(range(len(self.segments))):
            inputs, output = saved.pop()
            parameters = self._parameters[index]
            leaves = [*parameters, inputs] if inputs.requires_grad else parameters
            gradients = torch.autograd.grad(output, leaves, gradient)
            torch._foreach_add_(self._gradients[index], gradients[: len(parameters)])
            if on_gradient is not None:
                on_gradient(index)
            gradient = gradients[-1]
        return gradient if inputs.requires_grad else None

    def backward_inputs(self, microbatch: int, gradient: Tensor) -> Tensor | None:
        """Do the first part of a backward pass; return the gradient of the input, if it needs one.

        What the second part needs stays until then.
        """
        saved = self._live.pop(microbatch)
        waiting: list[list[WeightPass]] = []
        for index in reversed(range(len(self.segments))):
            inputs, output = saved.pop()
            split = self._splits[index]
            for_input, early, passes = split.first_part(inputs, output, gradient)
            self._add(index, split.early, early)
            waiting.append(passes)
            if for_input is not None:
                gradient = for_input
        self._waiting[microbatch] = waiting
        self._count_waiting()
        return for_input

    def backward_weights(self, microbatch: int, on_gradient: OnGradient | None = None) -> None:
        """Do the second part of a backward pass: add to the gradients of the parameters.

        `on_gradient` is called as in `backward`.
        """
        waiting = self._waiting.pop(microbatch)
        for index in reversed(range(len(self.segments))):
            self._add(index, *self._splits[index].second_part(waiting.pop(0)))
            if on_gradient is not None:
                on_gradient(index)

    def _add(self, segment: int, indices: Sequence[int], gradients: Sequence[Tensor]) -> None:
        if indices:
            sums = self._gradients[segment]
            torch._foreach_add_([sums[index] for index in indices], list(gradients))

    def _count_waiting(self) -> None:
        segments = itertools.chain.from_iterable(self._waiting.values())
        self.most_waiting_bytes = max(self.most_waiting_bytes, sum(map(kept_bytes, segments)))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the stage's output for an input; nothing is saved."""
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
