"""Exercises on a model in parts: a layer that is split, a stage's backward pass, a sharded
optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nnpar_lib.course.checks import call, call_on_ranks, demand, judged, running
from nnpar_lib.launch.engines import Engines
from nnpar_lib.parts import part

NEAR = 1e-12
NUM_STEPS = 3
LR = 0.1
MOMENTUM = 0.9


@judged
def check_row_split(function: Callable[..., Any], *, ranks: Engines | None = None) -> str:
    """Compute a layer that is split by its inputs: `row_split(inputs, weight, bias, communicator)`.

    A rank has some of the columns of the inputs, [n, k_r], the same columns of the weight,
    [m, k_r], and the whole bias, [m]. Return the outputs of the whole layer, [n, m], on every rank.
    `communicator` is one of mpi4py; tensors travel as `tensor.numpy()`. Tried on 1, 2 and 3 ranks.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 7), (5, 7), (5,))
    )
    with running(ranks, 3) as started:
        for num_ranks in range(1, 1 + min(3, started.num_ranks)):
            columns = [part(7, num_ranks, rank) for rank in range(num_ranks)]
            pieces = [(inputs[:, c].contiguous(), weight[:, c].contiguous()) for c in columns]
            outcomes = call_on_ranks(started, function, [(*piece, bias) for piece in pieces])
            for rank, (outputs, *_) in enumerate(outcomes):
                partial = pieces[rank][0] @ pieces[rank][1].T
                _check_outputs(outputs, inputs @ weight.T, partial, bias, rank, num_ranks)
    return "every rank has the outputs of the whole layer, on 1, 2 and 3 ranks"


def _check_outputs(
    outputs: Any, product: Tensor, partial: Tensor, bias: Tensor, rank: int, num_ranks: int
) -> None:
    where = f"on rank {rank} of {num_ranks}"
    _demand_shape(outputs, product.shape, f"{where} the outputs")
    guesses = {
        f"{where} the bias is added {num_ranks} times, once by each rank": product
        + num_ranks * bias,
        f"{where} the bias is missing": product,
        f"{where} the outputs are those of the rank's own columns: add up the partial products of"
        " all ranks": partial + bias,
        f"{where} the outputs are the rank's own partial product: add those of the others, and the"
        " bias": partial,
    }
    if _is_near(outputs, product + bias):
        return
    for text, guess in guesses.items():
        demand(not _is_near(outputs, guess), text)
    demand(False, f"{where} the outputs are not those of the whole layer")


@judged
def check_stage_backward(function: Callable[..., Any]) -> str:
    """Take the backward pass of a pipeline stage: `stage_backward(inputs, outputs, gradient)`.

    `outputs` = stage(`inputs`), for one micro-batch; `gradient` is what has come from the next
    stage, the loss's gradient of `outputs`. Return what the stage before needs, and add this
    micro-batch's part to the `grad` of the stage's parameters. It is called for one micro-batch
    after the other, in the order of their forward passes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stage = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
        tail = nn.Linear(4, 3).double()
    parameters = list(stage.parameters())
    flows = [_forward(stage, tail, seed) for seed in (1, 2)]
    summed = [torch.zeros_like(parameter) for parameter in parameters]
    for number, (inputs, outputs, gradient, expected) in enumerate(flows):
        before = torch.autograd.grad(
            outputs, [*parameters, inputs], gradient, retain_graph=True, allow_unused=False
        )
        summed = [a + b for a, b in zip(summed, before[:-1], strict=True)]
        result = call(function, inputs, outputs, gradient)
        _check_returned(result, expected, gradient, number)
        _check_weights(parameters, summed, before[:-1], number)
    return "what goes to the stage before, and the weights' gradients of two micro-batches"


def _forward(stage: nn.Module, tail: nn.Module, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, outputs, and the loss's gradients of outputs and of inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs = stage(inputs)
    loss = nn.functional.cross_entropy(tail(outputs), torch.tensor([0, 1, 2]))
    gradient, expected = torch.autograd.grad(loss, [outputs, inputs], retain_graph=True)
    return inputs, outputs, gradient, expected


def _check_returned(result: Any, expected: Tensor, gradient: Tensor, number: int) -> None:
    where = f"for micro-batch {number}"
    demand(
        not (isinstance(result, Tensor) and result.shape == gradient.shape),
        f"{where} what is returned has the shape of the outputs; the stage before needs the"
        " gradient of ITS outputs, which are your inputs",
    )
    _demand_shape(result, expected.shape, f"{where} what is returned")
    demand(
        _is_near(result, expected),
        f"{where} the gradient of the inputs is wrong: does the backward pass begin with the"
        " gradient that has come from the next stage?",
    )


def _check_weights(
    parameters: list[nn.Parameter], summed: list[Tensor], latest: Any, number: int
) -> None:
    gradients = [parameter.grad for parameter in parameters]
    demand(
        all(gradient is not None for gradient in gradients),
        "the stage's weights have no gradient: only that of the inputs is computed",
    )
    if all(map(_is_near, gradients, summed)):
        return
    demand(
        not (number and all(map(_is_near, gradients, latest))),
        "the weights have the gradient of the last micro-batch alone: add it to what is there",
    )
    demand(False, f"after micro-batch {number} the gradients of the weights are wrong")


@judged
def check_zero_1(function: Callable[..., Any], *, ranks: Engines | None = None) -> str:
    """Update as ZeRO stage 1: `update(weights, gradient, velocity, communicator)`.

    `weights` and `gradient`, [n], are whole and the same on all ranks. `velocity` is this rank's
    slice, `nnpar_lib.parts.part(n, size, rank)`, of the momenta: change it in place. The rule is
    v <- 0.9 v + g, w <- w - 0.1 v. Return the whole new weights on every rank, though a rank has
    the momenta of its slice alone. Tried for 3 steps on 1, 2 and 3 ranks, with slices of unequal
    length.
    """
    with running(ranks, 3) as started:
        for num_ranks in range(1, 1 + min(3, started.num_ranks)):
            _check_zero_steps(function, started, num_ranks)
    return "3 steps on 1, 2 and 3 ranks equal those of a whole optimizer"


def _check_zero_steps(function: Callable[..., Any], ranks: Engines, num_ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(10, generator=generator, dtype=torch.float64)
    momenta = torch.zeros_like(weights)
    slices = [part(10, num_ranks, rank) for rank in range(num_ranks)]
    velocities = [momenta[bounds].clone() for bounds in slices]
    for step in range(NUM_STEPS):
        gradient = torch.randn(10, generator=generator, dtype=torch.float64)
        sent = [(weights.clone(), gradient, velocity) for velocity in velocities]
        outcomes = call_on_ranks(ranks, function, sent)
        before = weights
        momenta = MOMENTUM * momenta + gradient
        weights = weights - LR * momenta
        velocities = [arguments[2] for _, arguments, _ in outcomes]
        for rank, (result, *_) in enumerate(outcomes):
            where = f"after step {step + 1} on rank {rank} of {num_ranks}"
            _demand_shape(result, weights.shape, f"{where} the weights")
            _check_slices(result, weights, before, slices, where)
        for rank, velocity in enumerate(velocities):
            demand(
                _is_near(velocity, momenta[slices[rank]]),
                f"after step {step + 1} rank {rank}'s velocity is not 0.9 v + g: change it in"
                " place, with velocity.mul_ and add_, so that the next step finds it",
            )


def _check_slices(
    result: Tensor, weights: Tensor, before: Tensor, slices: list[slice], where: str
) -> None:
    for owner, bounds in enumerate(slices):
        demand(
            not _is_near(result[bounds], before[bounds]),
            f"{where} the slice of rank {owner} has its old weights: gather the slices of all"
            " ranks",
        )
        demand(
            _is_near(result[bounds], weights[bounds]),
            f"{where} the weights in the slice of rank {owner} are wrong",
        )


def _demand_shape(result: Any, shape: torch.Size, what: str) -> None:
    demand(
        isinstance(result, Tensor),
        f"{what} should be a tensor and is {'nothing' if result is None else type(result).__name__}"
        "; is there a return?",
    )
    demand(
        result.shape == shape,
        f"{what} should have the shape {tuple(shape)} and has {tuple(result.shape)}",
    )


def _is_near(value: Any, expected: Tensor) -> bool:
    return value.shape == expected.shape and bool(
        (value.detach() - expected).abs().max() <= NEAR * max(1.0, float(expected.abs().max()))
    )
