"""Figures of the demonstration: learning curves, and predicted digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nnpar_lib.analysis.figures.theme import INK, figure_size, new_axes, style_of

CURVES = {"train_loss": "training loss", "test_accuracy": "test accuracy"}
PROBABILITY_COLOURS = "Blues"


def learning_curves(frame: pd.DataFrame) -> Figure:
    """Draw training loss and test accuracy against steps: one column per model, one line per way.

    Later lines are thinner, so that lines on top of each other are all seen.
    """
    models = list(dict.fromkeys(frame["model"]))
    figure, axes = plt.subplots(
        len(CURVES),
        len(models),
        figsize=(1.7 * figure_size()[0], 1.3 * figure_size()[1]),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for column, model in enumerate(models):
        _curves(list(axes[:, column]), frame[frame["model"] == model])
        axes[0][column].set_title(model)
        axes[-1][column].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    for ax, label in zip(axes[:, 0], CURVES.values(), strict=True):
        ax.set_ylabel(label)
    return figure


def _curves(axes: Sequence[Axes], runs: pd.DataFrame) -> None:
    widths = np.linspace(1, 3, len(runs))[::-1]
    for width, run in zip(widths, runs.to_dict("records"), strict=True):
        style = style_of(run["strategy"], run["allreduce"])
        history = pd.DataFrame(run["history"])
        for ax, name in zip(axes, CURVES, strict=True):
            ax.plot(
                history["step"],
                history[name],
                color=style.colour,
                marker=style.marker,
                linewidth=2 * width,
                markersize=3 + 3 * width,
                label=style.label,
                alpha=0.85,
            )
    axes[-1].yaxis.set_major_formatter(PercentFormatter(1))
    axes[-1].set(xlabel="step", ylim=(0, 1.02))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def side_by_side(
    images: np.ndarray[Any, Any],
    labels: Sequence[int],
    probabilities: Mapping[str, np.ndarray[Any, Any]],
) -> Figure:
    """Draw images [N, 28, 28] in a row, and below each the digit that every network predicts.

    `probabilities` has an array [N or more, 10] for each network. Wrong digits are in brackets; a
    darker cell means a higher probability.
    """
    shown = {name: rows[: len(images)] for name, rows in probabilities.items()}
    most = pd.DataFrame({name: rows.max(axis=1) for name, rows in shown.items()}).T
    taken = pd.DataFrame({name: rows.argmax(axis=1) for name, rows in shown.items()}).T
    words = pd.DataFrame(
        {
            i: [str(digit) if digit == label else f"({digit})" for digit in taken[i]]
            for i, label in enumerate(labels)
        },
        index=taken.index,
    )
    figure, axes = plt.subplots(
        2,
        1,
        figsize=(1.5 * figure_size()[0], 1.4 + 0.32 * len(most)),
        layout="constrained",
        gridspec_kw={"height_ratios": [1, 0.3 * len(most)]},
    )
    axes[0].imshow(np.concatenate(list(images), axis=1), cmap="gray_r", aspect="equal")
    axes[0].axis("off")
    sns.heatmap(
        most,
        annot=words,
        fmt="",
        vmin=0,
        vmax=1,
        cmap=PROBABILITY_COLOURS,
        linewidths=1,
        ax=axes[1],
        cbar_kws={"label": "probability"},
        xticklabels=list(labels),
    )
    axes[1].set(xlabel="what it is")
    return figure


def one_digit(
    image: np.ndarray[Any, Any], label: int, probabilities: Mapping[str, np.ndarray[Any, Any]]
) -> Figure:
    """Draw an image [28, 28] and the probabilities [10] that each network gives to the digits."""
    table = pd.DataFrame(probabilities).T
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(1.6 * figure_size()[0], 0.8 + 0.3 * len(table)),
        layout="constrained",
        gridspec_kw={"width_ratios": [1, 3]},
    )
    axes[0].imshow(image, cmap="gray_r")
    axes[0].set_title(f"a {label}")
    axes[0].axis("off")
    sns.heatmap(
        table,
        annot=True,
        fmt=".0%",
        vmin=0,
        vmax=1,
        cmap=PROBABILITY_COLOURS,
        linewidths=1,
        cbar=False,
        ax=axes[1],
        annot_kws={"fontsize": 7},
    )
    axes[1].set(xlabel="digit")
    return figure


def speedup_bars(frame: pd.DataFrame) -> Axes:
    """Draw the rate of each run over that of the serial run of its model.

    Each is one short run, so there are no intervals.
    """
    serial = frame[frame["strategy"] == "serial"].set_index("model")["samples_per_second"]
    table = frame.assign(
        speedup=frame["samples_per_second"] / frame["model"].map(serial),
        way=[style_of(str(row.strategy), str(row.allreduce)).label for row in frame.itertuples()],
    )
    ax = new_axes(num_bars=len(table))
    sns.barplot(table, x="speedup", y="way", hue="model", ax=ax, errorbar=None)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set(xlabel="examples a second over those of the serial run", ylabel="")
    return ax
