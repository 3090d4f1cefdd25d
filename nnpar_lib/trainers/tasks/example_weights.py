"""Says in words how a gradient differs from that of the whole batch: which examples count how much.

The gradient of a batch is the mean of its examples' gradients. A wrong one is often a mean with
other weights; these are found by least squares, and each kind of mistake leaves a pattern in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LossSum = Callable[[Any, Tensor], Tensor]
RESIDUAL = 1e-5  # relative: below it, a gradient is a sum of the examples' gradients
NEAR = 1e-4  # two weights that differ by less count as equal


def find(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: LossSum, gradient: Tensor
) -> list[float] | None:
    """Return how often each example counts in a flat gradient: 1 for all of them where it is right.

    None where the gradient is no sum of the examples' gradients, or one with many sets of weights.
    """
    gradients = [
        flat_gradient(model, inputs[i : i + 1], targets[i : i + 1], loss)
        for i in range(len(targets))
    ]
    columns = torch.stack(gradients, dim=1).double()
    wanted = gradient.double().unsqueeze(1)
    if not torch.isfinite(wanted).all():
        return None
    allowed = RESIDUAL * columns.norm() / len(targets)
    if (columns.mean(dim=1, keepdim=True) - wanted).norm() < allowed * NEAR:
        return [1.0] * len(targets)
    fit = torch.linalg.lstsq(columns, wanted, driver="gelsd")
    is_unique = int(fit.rank) == len(targets)
    if not is_unique or (columns @ fit.solution - wanted).norm() > allowed:
        return None
    weights: list[float] = (fit.solution.squeeze(1) * len(targets)).tolist()
    return weights


def flat_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, loss: LossSum) -> Tensor:
    """Return the gradient of the summed loss of some examples as one flat tensor."""
    parameters = list(model.parameters())
    return torch.cat(
        [
            gradient.reshape(-1)
            for gradient in torch.autograd.grad(loss(model(inputs), targets), parameters)
        ]
    )


def describe(weights: Sequence[float], sizes: Sequence[int], rank: int) -> str:
    """Return what is wrong with a gradient on `rank`, "" where every example counts once.

    `weights` are those of `find`, in the order of the ranks' parts, whose sizes are `sizes`.
    """
    count = len(weights)
    filled = [r for r, size in enumerate(sizes) if size]
    parts = _by_part(weights, sizes)
    if _near(weights, [1.0] * count):
        return ""
    if _near(weights, [count] * count):
        return "the sum over the examples is not divided by their number"
    is_alone = all(_near(parts[r], [0.0] * sizes[r]) for r in filled if r != rank)
    if len(filled) > 1 and is_alone and not _near(parts[rank], [1.0] * sizes[rank]):
        return "the gradient is that of this rank's own part: nothing comes from the other ranks"
    return _of_means(parts, sizes) or _of_parts(parts, sizes)


def _of_means(parts: Sequence[Sequence[float]], sizes: Sequence[int]) -> str:
    """Return what is wrong where each part's mean counts the same, "" where it is not that."""
    count = sum(sizes)
    means = [[count / max(size, 1)] * size for size in sizes]
    filled = [size for size in sizes if size]
    if _all_near(parts, means) and len(sizes) > 1:
        return (
            "the means of the ranks' parts are added, or their sum is divided by the examples of"
            f" one part: divide the sum by {count}, the number of examples of the batch"
        )
    for divisor in {len(sizes), len(filled)}:
        scaled = [[weight / divisor for weight in part] for part in means]
        if _all_near(parts, scaled):
            return (
                "the mean of each rank's part counts the same, though the parts have"
                f" {_listed(sizes)} examples: add up sums, and divide once by {count}, the number"
                " of examples of the batch"
            )
    return ""


def _of_parts(parts: Sequence[Sequence[float]], sizes: Sequence[int]) -> str:
    """Return what is wrong with the weights of single parts or examples."""
    flat = [weight for part in parts for weight in part]
    if _near(flat, [flat[0]] * len(flat)):
        return f"the gradient is {flat[0]:.4g} times what it has to be"
    sentences = []
    for rank, part in enumerate(parts):
        if not part or _near(part, [1.0] * len(part)):
            continue
        if _near(part, [part[0]] * len(part)):
            sentences.append(f"rank {rank}'s part {_counted(part[0])}")
        else:
            sentences += [
                f"example {i} of rank {rank}'s part {_counted(weight)}"
                for i, weight in enumerate(part)
                if abs(weight - 1) > NEAR
            ]
    return "; ".join(sentences[:3]) + ("; ..." if len(sentences) > 3 else "")


def _counted(weight: float) -> str:
    if abs(weight) < NEAR:
        return "is left out"
    if abs(weight - 2) < NEAR:
        return "is counted twice"
    return f"is counted {weight:.4g} times"


def _by_part(weights: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
    parts = []
    start = 0
    for size in sizes:
        parts.append(list(weights[start : start + size]))
        start += size
    return parts


def _near(values: Sequence[float], expected: Sequence[float]) -> bool:
    return all(abs(a - b) < NEAR * max(1.0, abs(b)) for a, b in zip(values, expected, strict=True))


def _all_near(parts: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> bool:
    return all(_near(part, wanted) for part, wanted in zip(parts, expected, strict=True))


def _listed(sizes: Sequence[int]) -> str:
    return f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
