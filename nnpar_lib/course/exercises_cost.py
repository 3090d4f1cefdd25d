"""Exercises on cost: latency and bandwidth, the seconds of a ring, the operations of a step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from nnpar_lib.analysis.claims import cpp
from nnpar_lib.analysis.cost import cost_model
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.course.checks import call, demand, judged, wrong

# bytes of a small and a large message, and what they cost
MESSAGES = (
    ((1_000, 1_000_000), AlphaBeta(20e-6, 1 / 8e9)),
    ((4_000, 40_000), AlphaBeta(2e-6, 1 / 1e9)),
    ((8, 4_000_000), AlphaBeta(150e-6, 1 / 12e9)),
)
RINGS = ((940_584, 2), (940_584, 8), (1_000, 64), (5_000, 1))
RING_MESSAGE = AlphaBeta(10e-6, 1 / 10e9)
NETWORKS = (((784, 256, 128, 10), 64), ((6, 5), 1), ((16, 16, 16), 3))
NEAR = 1e-6


@judged
def check_message_cost(function: Callable[..., Any]) -> str:
    """Read a latency and a bandwidth: `message_cost(small, small_seconds, large, large_seconds)`.

    A message of n bytes takes alpha + beta n seconds (Hockney 1994). Two messages were timed:
    `small` and `large` are their bytes. Return the latency alpha in seconds and the bandwidth
    1/beta in bytes a second.
    """
    for (small, large), price in MESSAGES:
        seconds = [price.seconds(size) for size in (small, large)]
        result = call(function, small, seconds[0], large, seconds[1])
        where = (
            f"with {small} bytes in {seconds[0] * 1e6:.4g} microseconds and {large} in"
            f" {seconds[1] * 1e6:.4g}"
        )
        demand(
            isinstance(result, tuple | list) and len(result) == 2,
            f"{where} two numbers are asked for, and your function returns {result!r}",
        )
        latency, bandwidth = result
        _check_bandwidth(bandwidth, price, large / seconds[1], where)
        hint = "; that is the small message's time, which has its bytes in it, too"
        demand(
            _is_near(latency, price.alpha),
            f"{where} the latency is {price.alpha:.4g} s and not {_shown(latency)}"
            f"{hint if _is_near(latency, seconds[0]) else ''}",
        )
    return f"latency and bandwidth of {len(MESSAGES)} networks"


def _check_bandwidth(bandwidth: Any, price: AlphaBeta, apparent: float, where: str) -> None:
    hints = {
        "; that is bytes over seconds, and the seconds have the latency in them": apparent,
        "; that is beta, the seconds of a byte": price.beta,
    }
    hint = next((hint for hint, value in hints.items() if _is_near(bandwidth, value)), "")
    demand(
        _is_near(bandwidth, price.bandwidth),
        f"{where} the bandwidth is {price.bandwidth:.4g} bytes a second and not"
        f" {_shown(bandwidth)}{hint}",
    )


@judged
def check_ring_seconds(function: Callable[..., Any]) -> str:
    """Predict an all-reduce: `ring_seconds(num_bytes, num_ranks, alpha, beta)`, a number.

    A ring sums n bytes on p ranks with 2(p - 1) messages one after the other, each of n/p bytes
    (Thakur et al. 2005). A message takes alpha + beta times its bytes. One rank sends nothing.
    """
    for num_bytes, num_ranks in RINGS:
        alpha = RING_MESSAGE.alpha
        beta = RING_MESSAGE.beta
        seconds = call(function, num_bytes, num_ranks, alpha, beta)
        expected = cost_model.allreduce_seconds(RING_MESSAGE, num_bytes, num_ranks)
        steps = num_ranks - 1
        _compare(
            seconds,
            expected,
            f"with {num_bytes} bytes on {num_ranks} rank{'s' * (num_ranks > 1)} a ring takes",
            "s",
            {
                "every message carries all n bytes, and not n/p": 2
                * steps
                * (alpha + beta * num_bytes),
                "after p - 1 messages each rank has one complete part: p - 1 more bring it"
                " round": expected / 2,
                "the latency is paid once, and not in every message": alpha
                + 2 * steps / num_ranks * beta * num_bytes,
                "the latency is left out": 2 * steps / num_ranks * beta * num_bytes,
            },
        )
    return "the bytes travel nearly twice, and every message pays its latency"


@judged
def check_training_flops(function: Callable[..., Any]) -> str:
    """Count operations: `training_flops(sizes, num_examples)`, those of a step's matrix products.

    `sizes` are the features of a feed-forward network from its inputs to its outputs. A product of
    [n, k] and [k, m] has 2nkm operations: a multiplication and an addition each. A layer needs one
    product forward and two backward, for the gradients of its weights and of its inputs; nobody
    needs the gradient of the first layer's inputs. Biases and activations do not count.
    """
    for sizes, num_examples in NETWORKS:
        flops = call(function, sizes, num_examples)
        products = [2 * n * m * num_examples for n, m in itertools.pairwise(sizes)]
        expected = num_examples * cpp.flops_per_example(sizes)
        _compare(
            flops,
            expected,
            f"with layers of {sizes} features and {num_examples}"
            f" example{'s' * (num_examples > 1)} a step has",
            "operations",
            {
                "the gradient of the first layer's inputs is counted": 3 * sum(products),
                "that is the forward pass alone": sum(products),
                "a multiplication and an addition are two operations": expected / 2,
                "each layer has two products backward, and the first layer one": 2 * sum(products),
                "that is one example": expected / num_examples,
            },
        )
    return "the backward pass has twice the products of the forward pass, less one"


def _compare(
    result: Any, expected: float, statement: str, unit: str, mistakes: Mapping[str, float]
) -> None:
    """Say what is expected, and the mistake that gives the number which is returned."""
    if _is_near(result, expected):
        return
    text = f"{statement} {expected:.6g} {unit} and not {_shown(result)}"
    for mistake, value in mistakes.items():
        if _is_near(result, value):
            text += f"; {mistake}"
            break
    wrong(text)


def _is_near(value: Any, expected: float) -> bool:
    return isinstance(value, int | float) and math.isclose(value, expected, rel_tol=NEAR)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else repr(value)
