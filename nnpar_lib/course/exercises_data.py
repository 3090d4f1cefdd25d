"""Exercises on data parallelism: shards, accumulated gradients, the mean over uneven parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nnpar_lib import verify
from nnpar_lib.course.checks import call, demand, explained, judged, running, wrong
from nnpar_lib.launch.engines import Engines

SHARDED = ((8, 2), (7, 3), (9, 4), (3, 4), (1, 2), (0, 2), (10, 1))
NEAR = 1e-12


@judged
def check_shards(function: Callable[..., Any]) -> str:
    """Divide a batch over ranks: `shard(num_examples, num_ranks, rank)` returns a slice.

    The slices of all ranks cover every example once, in the order of the ranks, and their lengths
    differ by at most 1. A batch may have fewer examples than there are ranks.
    """
    for num_examples, num_ranks in SHARDED:
        owners: list[list[int]] = [[] for _ in range(num_examples)]
        sizes = []
        for rank in range(num_ranks):
            indices = _indices(call(function, num_examples, num_ranks, rank), num_examples, rank)
            sizes.append(len(indices))
            for index in indices:
                owners[index].append(rank)
        where = f"{num_examples} examples on {num_ranks} ranks"
        _check_owners(owners, where)
        demand(max(sizes) - min(sizes) <= 1, f"with {where} the parts have {sizes} examples")
    return f"every example has one rank, in {len(SHARDED)} divisions, empty parts among them"


def _indices(part: Any, num_examples: int, rank: int) -> range:
    demand(
        isinstance(part, slice),
        f"a slice is asked for, such as slice(0, 4), and rank {rank} gets {part!r}",
    )
    bounds = (part.start or 0, num_examples if part.stop is None else part.stop)
    demand(
        all(isinstance(bound, int) for bound in bounds),
        f"rank {rank} gets {part!r}: the bounds have to be whole numbers; is // meant?",
    )
    demand(
        bounds[1] <= num_examples,
        f"rank {rank} gets {part!r}, which ends behind the last of {num_examples} examples",
    )
    return range(*bounds)


def _check_owners(owners: list[list[int]], where: str) -> None:
    for index, ranks in enumerate(owners):
        demand(ranks, f"with {where} example {index} is in no rank's part")
        demand(len(ranks) < 2, f"with {where} example {index} is in the parts of ranks {ranks}")
    order = [ranks[0] for ranks in owners]
    demand(order == sorted(order), f"with {where} the parts do not follow the order of ranks")


@judged
def check_accumulation(function: Callable[..., Any]) -> str:
    """Accumulate gradients: `accumulate(model, microbatches)` sees a batch in portions.

    `microbatches` are pairs of inputs [n, 6] and labels [n], of different lengths. Afterwards the
    parameters' `grad` is the gradient of the mean cross-entropy over the WHOLE batch. The gradients
    may hold something of the step before.
    """
    for sizes in ((4, 4), (4, 4, 3), (5, 1, 2), (1,)):
        model, inputs, labels = _problem(sum(sizes))
        expected = _gradients(model, inputs, labels)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        portions = list(zip(inputs.split(list(sizes)), labels.split(list(sizes)), strict=True))
        call(function, model, portions)
        actual = [parameter.grad for parameter in model.parameters()]
        _compare(model, actual, expected, portions)
    return "the gradient is that of the whole batch, in portions of equal and of unequal length"


def _compare(model: nn.Module, actual: Any, expected: Any, portions: Any) -> None:
    """Say what is wrong with gradients, by the mistakes that leave a pattern."""
    sizes = [len(labels) for _, labels in portions]
    demand(all(gradient is not None for gradient in actual), "a parameter has no gradient")
    if _are_near(actual, expected):
        return
    count = sum(sizes)
    parts = [_gradients(model, *portion) for portion in portions]
    kept = [gradient - 1 for gradient in actual]
    guesses = {
        "the gradients of the step before are still in it: set them to zero first": kept,
        f"the gradient is {len(sizes)} times too large: the means of the portions are added, and"
        " not averaged": [g * (1 / len(sizes)) for g in actual],
        f"the gradient is {count} times too large: the sum is not divided by the number of"
        " examples": [g / count for g in actual],
    }
    for text, guess in guesses.items():
        demand(not _are_near(guess, expected), text)
    mean = [sum(tensors) / len(parts) for tensors in zip(*parts, strict=True)]
    demand(
        not _are_near(actual, mean),
        f"every portion's mean counts the same, though they have {sizes} examples",
    )
    added = [sum(tensors) for tensors in zip(*parts, strict=True)]
    demand(
        not _are_near(actual, added),
        f"the means of the portions of {sizes} examples are added; weight each by its length, and"
        " divide by the length of the whole batch",
    )
    demand(
        not any(
            _are_near([g * (count / sizes[-1] if scale else 1) for g in actual], parts[-1])
            for scale in (False, True)
        ),
        "only the last portion is in it: are the gradients set to zero between portions?",
    )
    wrong(f"with portions of {sizes} examples the gradient is not that of the whole batch")


@judged
def check_momentum(function: Callable[..., Any]) -> str:
    """Write the optimizer: `momentum_step(weight, gradient, velocity)`.

    SGD with momentum (Polyak 1964, as torch has it): v <- 0.9 v + g, then w <- w - 0.1 v, both in
    place. `weight` is a parameter, which takes part in automatic differentiation: the update must
    not.
    """
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    twin = weight.detach().clone().requires_grad_()
    velocity = torch.zeros_like(twin)
    optimizer = torch.optim.SGD([twin], lr=0.1, momentum=0.9)
    for step in range(3):
        gradient = torch.tensor([0.5, -1.0, float(step)], dtype=torch.float64)
        twin.grad = gradient.clone()
        start = twin.detach().clone()
        optimizer.step()
        call(function, weight, gradient, velocity)
        after = weight.detach()
        where = f"after step {step + 1}"
        demand(
            not torch.equal(after, start),
            f"{where} the weight is as before: change it in place, with weight.sub_ or -=",
        )
        demand(
            not (step and _are_near([after], [start - 0.1 * gradient])),
            f"{where} the weight moves by the gradient alone: does velocity change in place?",
        )
        demand(_are_near([after], [twin.detach()]), f"{where} the weight is not w - 0.1 v")
    demand(weight.grad_fn is None, "the update takes part in differentiation: use torch.no_grad()")
    return "three steps equal those of torch.optim.SGD"


def _are_near(actual: Any, expected: Any) -> bool:
    return all(
        (a - b).abs().max() <= NEAR * max(1.0, float(b.abs().max()))
        for a, b in zip(actual, expected, strict=True)
    )


def _problem(num_examples: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_examples)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs = torch.randn(num_examples, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (num_examples,), generator=generator)
    return model, inputs, labels


def _gradients(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Any:
    loss = nn.functional.cross_entropy(model(inputs), labels)
    return torch.autograd.grad(loss, list(model.parameters()))


@judged
def check_mean_over_parts(function: Callable[..., Any], *, ranks: Engines | None = None) -> str:
    """Average gradients over ranks: `step(model, part, communicator)`, on real ranks.

    `part.inputs` [n, 6] and `part.targets` [n] are this rank's examples, n may be 0;
    `part.num_global_examples` is the number of all ranks together. Leave in the parameters' `grad`
    the gradient of the mean cross-entropy over ALL examples. `communicator` is one of mpi4py, and
    `parameter.grad.numpy()` is what it can send. `nnpar_lib.verify` compares the gradients with
    serial ones, on 1, 2 and 3 ranks.
    """
    with running(ranks, 3) as started:
        report = verify.check(
            function,
            ranks=started,
            num_ranks=min(3, started.num_ranks),
            checks=("even parts", "uneven parts", "short last batch", "empty parts"),
            seconds=10,
        )
    demand(not report.error, explained(report.error))
    if not report.is_equal:
        wrong(_in_words(report))
    return f"equal to serial training in {len(report.tried)} checks on 1, 2 and 3 ranks"


def _in_words(report: verify.Report) -> str:
    """Return the first difference of a report as a sentence or two."""
    check, num_ranks = report.failed[0]
    row = report.worst(check, num_ranks)
    where = f"with {check} on {num_ranks} rank{'s' * (num_ranks > 1)}"
    size = f"in batch {row.step + 1}, of {row.batch_size} examples"
    if row.explanation:
        return f"{where}, {size}: {row.explanation}"
    return (
        f"{where}, {size}, the gradient of {row.parameter} on rank {row.rank} differs by"
        f" {row.relative:.0%} of its largest value"
    )
