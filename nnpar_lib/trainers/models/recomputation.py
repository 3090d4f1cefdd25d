"""Blocks whose activations are thrown away and computed again in the backward pass.

Of consecutive blocks only the input is kept (Chen et al. 2016). A step then needs the activations
of few blocks at a time, and one forward pass more. torch.utils.checkpoint does the same; here what
is kept passes autograd, so that it is counted with the other activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nnpar_lib.trainers.models import batch_norm


def recomputed(blocks: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Return the output of blocks; autograd keeps their input, and calls them again.

    Both calls must be equal, so blocks draw no random numbers. Running statistics follow the first
    call alone. Statistics that ranks share are exchanged in both calls: all ranks have to call the
    same blocks in the same order in their backward passes (collective).
    """
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    output: Tensor = _Recomputed.apply(blocks, inputs, *parameters)  # type: ignore[no-untyped-call]
    return output


class _Recomputed(torch.autograd.Function):
    """Blocks as one operation of inputs and parameters, which are arguments so that autograd asks
    for their gradients."""

    @staticmethod
    def forward(
        context: Any, blocks: Sequence[nn.Module], inputs: Tensor, *parameters: Tensor
    ) -> Tensor:
        context.blocks = blocks
        context.parameters = parameters
        device = inputs.device.type
        context.is_cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(
            device
        )
        context.save_for_backward(inputs)
        return _output(blocks, inputs.detach())

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = context.saved_tensors[0].detach()
        inputs.requires_grad_(context.needs_input_grad[1])
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(batch_norm.running_statistics_kept(*context.blocks))
            if context.is_cast:
                stack.enter_context(torch.autocast(inputs.device.type, torch.bfloat16))
            output = _output(context.blocks, inputs)
        leaves = [*context.parameters, *([inputs] if inputs.requires_grad else [])]
        gradients = torch.autograd.grad(output, leaves, gradient)
        for_inputs = gradients[-1] if inputs.requires_grad else None
        return None, for_inputs, *gradients[: len(context.parameters)]


def _output(blocks: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    for block in blocks:
        inputs = block(inputs)
    return inputs
