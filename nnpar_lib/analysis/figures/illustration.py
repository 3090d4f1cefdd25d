"""The picture that explains data and model parallelism."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nnpar_lib.analysis.figures.theme import FIGURE_SIZE, GREY, INK

NUM_LAYERS = 4
RANK_COLOURS = ("#0173b2", "#de8f05")
WIDTH = 1.6
HEIGHT = 0.5
GAP = 0.45


def data_and_model_parallelism() -> Figure:
    """Draw two ranks of each kind: copies with half of the batch each, and one network cut in
    two."""
    figure, axes = plt.subplots(
        1, 2, figsize=(1.35 * FIGURE_SIZE[0], 0.95 * FIGURE_SIZE[1]), layout="constrained"
    )
    _data_parallel(axes[0])
    _model_parallel(axes[1])
    titles = (
        "data parallelism: copies share the batch",
        "model parallelism: stages share the model",
    )
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
        ax.set(xlim=(-0.4, 5.4), ylim=(-1.3, 4.5))
        ax.axis("off")
    return figure


def _data_parallel(ax: Axes) -> None:
    for rank, left in enumerate((0.0, 3.4)):
        for layer in range(NUM_LAYERS):
            _layer(ax, left, layer, rank)
        _arrow(ax, (left + WIDTH / 2, -0.55), (left + WIDTH / 2, 0), INK)
        ax.text(
            left + WIDTH / 2,
            -0.95,
            f"rank {rank}: half {rank + 1} of the batch",
            ha="center",
            fontsize=10,
        )
    for layer in range(NUM_LAYERS):
        middle = _bottom(layer) + HEIGHT / 2
        _arrow(ax, (WIDTH + 0.05, middle), (3.35, middle), GREY, "<|-|>")
    ax.text(
        2.5,
        _bottom(NUM_LAYERS) - 0.1,
        "gradients of every layer\nare summed: an all-reduce",
        ha="center",
        va="bottom",
        fontsize=10,
    )


def _model_parallel(ax: Axes) -> None:
    left = 1.7
    for layer in range(NUM_LAYERS):
        _layer(ax, left, layer, rank=2 * layer // NUM_LAYERS)
    for rank in range(2):
        middle = (_bottom(2 * rank) + _bottom(2 * rank + 1) + HEIGHT) / 2
        ax.text(
            left - 0.25,
            middle,
            f"rank {rank}",
            ha="right",
            va="center",
            fontsize=10,
            color=RANK_COLOURS[rank],
        )
    _arrow(ax, (left + WIDTH / 2, -0.55), (left + WIDTH / 2, 0), INK)
    ax.text(left + WIDTH / 2, -0.95, "the whole batch, in micro-batches", ha="center", fontsize=10)
    border = _bottom(NUM_LAYERS // 2) - GAP / 2
    ax.plot(
        [left - 0.3, left + WIDTH + 0.3], [border] * 2, color=GREY, linestyle="--", linewidth=1.2
    )
    ax.text(
        left + WIDTH + 0.4,
        border,
        "activations go up,\ntheir gradients down",
        va="center",
        fontsize=10,
    )


def _layer(ax: Axes, left: float, layer: int, rank: int) -> None:
    box = FancyBboxPatch(
        (left, _bottom(layer)),
        WIDTH,
        HEIGHT,
        boxstyle="round,pad=0.02",
        facecolor=RANK_COLOURS[rank],
        edgecolor=INK,
    )
    ax.add_patch(box)
    ax.text(
        left + WIDTH / 2,
        _bottom(layer) + HEIGHT / 2,
        f"layer {layer + 1}",
        ha="center",
        va="center",
        fontsize=10,
        color="white" if rank == 0 else INK,
    )
    if layer < NUM_LAYERS - 1:
        _arrow(
            ax,
            (left + WIDTH / 2, _bottom(layer) + HEIGHT),
            (left + WIDTH / 2, _bottom(layer + 1)),
            INK,
            "<|-|>",
        )


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str = "-|>"
) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, mutation_scale=12, color=colour, shrinkA=2, shrinkB=2
        )
    )


def _bottom(layer: int) -> float:
    return layer * (HEIGHT + GAP)
