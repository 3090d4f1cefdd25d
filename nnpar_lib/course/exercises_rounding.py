"""Exercises on rounding: weights in two precisions, statistics over ranks, what rounding may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnpar_lib.course.checks import call, demand, judged, wrong

LR = 0.01
NUM_STEPS = 100
PARTS = ((4, 4), (5, 1, 2), (3, 0, 6))  # examples of each rank
NEAR = 1e-9


@judged
def check_master_weights(function: Callable[..., Any]) -> str:
    """Update in two precisions: `update(weight, gradient, master)`, all of them [n], in place.

    `weight` and `gradient` are bfloat16, which the passes compute with. `master` is the weight in
    float32 (Micikevicius et al. 2018). The rule is w <- w - 0.01 g. Afterwards `master` has the
    update without a loss and `weight` is `master`, rounded.
    """
    master = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.002])  # the last one is moved in bfloat16, too
    weight = master.bfloat16()
    expected = master.double()
    for step in range(NUM_STEPS):
        gradient = torch.tensor([0.1, -0.17, 0.013, 0.0701, 0.2]).mul(1 + step % 3).bfloat16()
        start = master.clone()
        rounded = weight.clone()
        call(function, weight, gradient, master)
        expected = expected - LR * gradient.double()
        where = f"after step {step + 1}"
        _check_master(master, expected, start, gradient, where)
        demand(
            weight.dtype == torch.bfloat16 and torch.equal(weight, master.bfloat16()),
            f"{where} the weight is not the rounded master: "
            + (
                "it is as before; copy into it, with weight.copy_"
                if torch.equal(weight, rounded)
                else "update the master, then copy it"
            ),
        )
    return f"{NUM_STEPS} steps of float32, though most are too small to change a bfloat16"


def _check_master(
    master: Tensor, expected: Tensor, start: Tensor, gradient: Tensor, where: str
) -> None:
    if (master.double() - expected).abs().max() <= 1e-5 * LR * NUM_STEPS:
        return
    demand(
        not torch.equal(master, start),
        f"{where} the master is as before: change it in place, with sub_ or -=",
    )
    demand(
        not torch.equal(master, master.bfloat16().float()),
        f"{where} the master has the digits of a bfloat16 alone: small updates are lost. Take the"
        " update from the master, and round only what is copied into the weight",
    )
    product = (LR * gradient).double()
    demand(
        not torch.allclose(master.double(), start.double() - product, rtol=0, atol=1e-7),
        f"{where} the update is rounded: 0.01 times a bfloat16 is a bfloat16; take"
        " gradient.float() first",
    )
    wrong(f"{where} the master is not w - 0.01 g")


@judged
def check_statistics(function: Callable[..., Any]) -> str:
    """Synchronise batch normalisation: `statistics(counts, sums, squares)`.

    Rank r has `counts[r]` examples, which may be 0. `sums[r]` [features] is the sum of their values
    and `squares[r]` the sum of their squares: what an all-reduce could add up. Return mean and
    variance [features] of the examples of all ranks together; the variance divides by their number.
    """
    for counts in PARTS:
        generator = torch.Generator().manual_seed(sum(counts))
        values = torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64) + 2
        parts = values.split(list(counts))
        sums = torch.stack([part.sum(0) for part in parts])
        squares = torch.stack([part.square().sum(0) for part in parts])
        result = call(function, list(counts), sums.clone(), squares.clone())
        where = f"with {list(counts)} examples on {len(counts)} ranks"
        demand(
            isinstance(result, tuple | list) and len(result) == 2,
            f"{where} a mean and a variance are asked for, and your function returns {result!r}",
        )
        _check_mean(result[0], values, parts, where)
        _check_variance(result[1], values, parts, where)
    return "the statistics of the whole batch, on uneven and empty parts, too"


def _check_mean(mean: Any, values: Tensor, parts: Sequence[Tensor], where: str) -> None:
    if _is_near(mean, values.mean(0)):
        return
    demand(
        not _is_near(mean, torch.stack([part.mean(0) for part in parts]).mean(0)),
        f"{where} every rank's mean counts the same: add the sums, then divide once",
    )
    wrong(f"{where} the mean is {_shown(mean)} and not {_shown(values.mean(0))}")


def _check_variance(variance: Any, values: Tensor, parts: Sequence[Tensor], where: str) -> None:
    expected = values.var(0, correction=0)
    if _is_near(variance, expected):
        return
    count = len(values)
    weighted = [len(part) * part.var(0, correction=0) for part in parts if len(part)]
    local = torch.stack(weighted).sum(0) / count
    mistakes = {
        "the square of the mean is not subtracted": values.square().mean(0),
        "the mean of the ranks' variances does not see how their means differ": local,
        "it is divided by one less than the number of examples": values.var(0),
        "that is the standard deviation": expected.sqrt(),
    }
    for text, mistake in mistakes.items():
        demand(not _is_near(variance, mistake), f"{where} the variance is wrong: {text}")
    wrong(f"{where} the variance is {_shown(variance)} and not {_shown(expected)}")


@judged
def check_rounding(function: Callable[..., Any]) -> str:
    """Tell rounding from an error: `is_rounding(first, second, num_addends)`, True or False.

    `first` and `second` are floats of one precision, of numpy: `np.float32` or `np.float64`. Each
    is said to be the sum of the same n positive numbers, in another order. Return whether their
    difference can be rounding: each has a relative error of at most (n - 1) u (Higham 2002), and
    `np.finfo(type(first)).eps` is 2u.
    """
    for what, first, second, num_addends, expected in _pairs():
        answer = call(function, first, second, num_addends)
        difference = abs(float(first) - float(second)) / float(first)
        demand(
            isinstance(answer, bool | np.bool_),
            f"True or False is asked for, and your function returns {answer!r}",
        )
        demand(
            answer == expected,
            f"{first!r} and {second!r}, {num_addends} addends, are {what}: the relative difference"
            f" is {difference:.1e}, and your function says {bool(answer)}",
        )
    return "sums in another order, large and small, in two precisions, and four real errors"


def _pairs() -> list[tuple[str, Any, Any, int, bool]]:
    """Return what two sums are, the sums, the number of addends and whether it is rounding."""
    generator = np.random.default_rng(0)
    values = generator.random(10_000) + 0.5
    single = values.astype(np.float32)
    large = single * np.float32(1e6)
    small = single * np.float32(1e-9)
    order = "the same numbers in another order"
    return [
        (order, _sum(single), _sum(single[::-1]), 10_000, True),
        (order, _sum(large), _sum(large[::-1]), 10_000, True),
        (order, _sum(values), _sum(values[::-1]), 10_000, True),
        ("a sum of which the last number is missing", _sum(single[:8]), _sum(single[:7]), 8, False),
        ("a sum of which the last number is missing", _sum(small[:8]), _sum(small[:7]), 8, False),
        (
            "sums of which one went through float32",
            _sum(values),
            np.float64(_sum(single)),
            100,
            False,
        ),
        (
            "a sum in which one number counts twice",
            _sum(values),
            _sum(values) + values[0],
            10_000,
            False,
        ),
    ]


def _sum(values: Any) -> Any:
    """Return the sum of numbers one after the other, every partial sum rounded."""
    return np.add.accumulate(values)[-1]


def _is_near(value: Any, expected: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and value.shape == expected.shape
        and bool((value - expected).abs().max() <= NEAR)
    )


def _shown(value: Any) -> str:
    return str([round(v, 4) for v in value.tolist()]) if isinstance(value, Tensor) else repr(value)
