"""What things cost, as pictures: messages, overhead, the cache, rounding, batches and nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from nnpar_lib.analysis.figures.theme import GREY, INK
from nnpar_lib.course.picture import PALE, RANK_COLOURS, Canvas, Picture, draw, plot


def message_time() -> Picture:
    """Draw the time of a message: a fixed latency, then a time in proportion to its bytes."""

    def drawing(ax: Axes) -> None:
        num_bytes = np.linspace(0, 10, 50)
        ax.plot(num_bytes, 1 + 0.4 * num_bytes, color=RANK_COLOURS[0], linewidth=2)
        ax.axhspan(0, 1, color=PALE[1])
        ax.text(5, 0.5, "latency: the same for every size", ha="center", va="center")
        ax.text(1.4, 4.0, "slope: 1 / bandwidth", ha="left")
        ax.set(xlabel="bytes", ylabel="time", xticks=[], yticks=[], xlim=(0, 10), ylim=(0, 5.2))
        ax.spines[["top", "right"]].set_visible(False)

    return plot(
        4.4,
        "The time of a message is a straight line over its bytes. It begins at the latency and"
        " rises with a slope of one over the bandwidth.",
        drawing,
    )


def regimes() -> Picture:
    """Draw steps to a goal over the batch size, with the three regimes and B_crit."""

    def drawing(ax: Axes) -> None:
        batches = np.geomspace(2**-5, 2**5, 100)
        ax.loglog(batches, 1 + 1 / batches, color=RANK_COLOURS[0], linewidth=2.2)
        ax.loglog(batches, 1 / batches, color=GREY, linestyle="--", linewidth=1)
        for left, right, colour in ((2**-5, 2**-2, 2), (2**-2, 2**2, 1), (2**2, 2**5, 3)):
            ax.axvspan(left, right, color=PALE[colour], linewidth=0)
        for place, text in ((2**-3.5, "perfect\nscaling"), (1, "diminishing\nreturns")):
            ax.text(place, 42, text, ha="center", va="center", color=INK)
        ax.text(2**3.5, 42, "maximal data\nparallelism", ha="center", va="center", color=INK)
        ax.plot([1], [2], "o", color=INK)
        ax.annotate("B = B_crit: S = 2 S_min", (1, 2), (1.2, 4.2))
        ax.text(2**-4.8, 3.2, "twice the batch,\nhalf the steps", va="top")
        ax.set(xlabel="batch size B (logarithmic)", ylabel="steps S (logarithmic)")
        ax.set(xlim=(2**-5, 2**5), ylim=(0.7, 80), xticks=[], yticks=[])
        ax.minorticks_off()

    return plot(
        6.6,
        "Steps to a goal over the batch size, both logarithmic. For small batches the steps halve"
        " when the batch doubles: perfect scaling. Around the critical batch size, where the slope"
        " is -1/2 and the steps are twice their minimum, returns diminish. For large batches the"
        " steps stay at their minimum: maximal data parallelism.",
        drawing,
    )


def portions() -> Picture:
    """Draw a batch that does not fit in the cache, and its portions, which do."""

    def drawing(canvas: Canvas) -> None:
        canvas.heading((0.2, 7.2), "at once: activations spill out of the cache")
        canvas.box((1.2, 5.2), (8.6, 1.0), colour=PALE[1])
        canvas.text((6.9, 5.7), "activations of the whole batch")
        canvas.box((1.0, 4.9), (2.9, 1.6), colour="none", linewidth=2, linestyle="--")
        canvas.text((2.45, 4.55), "cache")
        canvas.text((6.9, 4.55), "memory: slow")
        canvas.heading((0.2, 3.5), "in portions: each fits")
        canvas.row((1.2, 1.5), (2.5, 1.0), [f"portion {i}" for i in (1, 2, 3)], PALE[:3], gap=0.5)
        canvas.box((1.0, 1.2), (2.9, 1.6), colour="none", linewidth=2, linestyle="--")
        canvas.text((2.45, 0.85), "cache")
        canvas.text((5.2, 0.3), "their gradients are summed: the same step")
        canvas.text((10.05, 2.0), "…")

    return draw(
        7.6,
        "Above, the activations of a whole batch are longer than the cache and spill into slow"
        " memory. Below, the batch is computed in portions that fit in the cache one after the"
        " other; the sum of their gradients is the gradient of the batch.",
        drawing,
    )


def overhead() -> Picture:
    """Draw a step of a small and of a large batch in PyTorch and in C++."""

    def drawing(canvas: Canvas) -> None:
        rows = (
            ("small batch", (("PyTorch", 2.0, 0.7), ("C++", 0.3, 0.7))),
            ("large batch", (("PyTorch", 2.0, 5.6), ("C++", 0.3, 5.6))),
        )
        for top, (title, bars) in zip((6.2, 3.1), rows, strict=True):
            canvas.heading((0.2, top), title)
            for index, (name, fixed, products) in enumerate(bars):
                bottom = top - 1.2 - 0.95 * index
                canvas.text((0.4, bottom + 0.35), name, ha="left")
                canvas.box((2.2, bottom), (fixed, 0.7), colour=PALE[1])
                canvas.box((2.2 + fixed, bottom), (products, 0.7), colour=PALE[0])
        canvas.row(
            (2.2, 0.05), (3.2, 0.6), ["overhead: fixed", "matrix products"], [PALE[1], PALE[0]]
        )

    return draw(
        6.6,
        "Time of a step in PyTorch and in C++. The matrix products take the same time in both; the"
        " overhead is fixed and larger in PyTorch. It is most of a step with a small batch and"
        " little of a step with a large batch.",
        drawing,
    )


def rounding() -> Picture:
    """Draw two orders of a sum in single precision, and the two results."""
    large = np.float32(2**24)
    addends = (large, np.float32(1), np.float32(1))
    left = (addends[0] + addends[1]) + addends[2]
    right = addends[0] + (addends[1] + addends[2])

    def drawing(canvas: Canvas) -> None:
        sums = (("(a + b) + c", 0.4, left), ("a + (b + c)", 5.5, right))
        canvas.text((5.2, 4.5), "a = 16,777,216    b = 1    c = 1")
        for order, corner, total in sums:
            canvas.box((corner, 2.6), (4.5, 1.1), order, colour=PALE[0])
            canvas.arrow((corner + 2.25, 2.6), (corner + 2.25, 1.8))
            canvas.box((corner, 0.8), (4.5, 1.0), f"{int(total):,}", colour=PALE[1])
        canvas.text((5.2, 0.3), "float32 keeps 24 bits: here 1 is lost, 2 is not")

    return draw(
        4.9,
        f"In single precision (16777216 + 1) + 1 is {int(left)}, and 16777216 + (1 + 1) is"
        f" {int(right)}: the order of a sum changes its last bits.",
        drawing,
    )


def strong_and_weak() -> Picture:
    """Draw the work of each rank on 1, 2 and 4 ranks, at a fixed global and a fixed local batch."""

    def drawing(canvas: Canvas) -> None:
        for left, title in ((0.2, "strong scaling"), (5.6, "weak scaling")):
            canvas.heading((left, 7.4), title)
        canvas.text((0.2, 6.7), "global batch fixed", ha="left")
        canvas.text((5.6, 6.7), "local batch fixed", ha="left")
        for row, num_ranks in enumerate((1, 2, 4)):
            bottom = 4.9 - 1.8 * row
            names = [f"{rank}" for rank in range(num_ranks)]
            colours = PALE[:num_ranks]
            canvas.row((0.2, bottom), (4.0 / num_ranks, 1.0), names, colours)
            canvas.row((5.6, bottom), (1.1, 1.0), names, colours)
            canvas.text((0.2, bottom + 1.28), f"{num_ranks} rank{'s' * (num_ranks > 1)}", ha="left")
        canvas.text((5.2, 0.5), "a box: the examples of a rank in one step")

    return draw(
        7.8,
        "Strong scaling: the global batch stays the same, and the part of each of 1, 2, 4 ranks"
        " shrinks. Weak scaling: each rank keeps the same number of examples, and the global batch"
        " grows with the ranks.",
        drawing,
    )


def predicted_costs(
    num_ranks: int, costs: Mapping[str, Sequence[float] | None], words: str
) -> Picture:
    """Draw the predicted speedup of each strategy as a bar; a full frame is the ideal.

    `costs` holds the speedup, milliseconds a step and MB a rank by strategy, or None where it
    cannot run.
    """

    def drawing(canvas: Canvas) -> None:
        for row, (name, cost) in enumerate(costs.items()):
            bottom = 1.05 * (len(costs) - 1 - row) + 0.15
            text = f"{name}: cannot run"
            canvas.box((0.1, bottom), (10.2, 0.32), colour="white")
            if cost is not None:
                text = f"{name}: {cost[0]:g} times, {cost[1]:g} ms, {cost[2]:g} MB a rank"
                width = 10.2 * min(1.0, cost[0] / num_ranks)
                canvas.box((0.1, bottom), (width, 0.32), colour=RANK_COLOURS[row])
            canvas.text((0.1, bottom + 0.58), text, ha="left")

    return draw(1.05 * len(costs), words, drawing)
