"""The figures of the demonstration and the illustration show what they are given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nnpar_lib.analysis.figures import demo_plots, illustration

mpl.use("Agg")
IMAGES = np.zeros((3, 28, 28), dtype=np.uint8)
CERTAIN = np.eye(10)[[7, 2, 1]]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def frame():
    def history(loss):
        return [
            {"step": step, "train_loss": loss / step, "test_accuracy": 1 - 1 / step}
            for step in (2, 4)
        ]

    rows = [
        ("mlp", "serial", 100.0, 4.0),
        ("mlp", "pipeline", 150.0, 3.0),
        ("cnn", "serial", 10.0, 2.0),
    ]
    return pd.DataFrame(
        [
            {
                "model": model,
                "strategy": way,
                "allreduce": "shared",
                "samples_per_second": rate,
                "history": history(loss),
            }
            for model, way, rate, loss in rows
        ]
    )


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_each_model_has_its_curves_of_loss_and_accuracy():
    figure = demo_plots.learning_curves(frame())
    assert [ax.get_title() for ax in figure.axes[:2]] == ["mlp", "cnn"]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[2, 1], [1.5, 0.75]]
    widths = [line.get_linewidth() for line in figure.axes[0].lines]
    assert widths[0] > widths[1]  # the second does not hide the first


def test_a_wrong_digit_stands_in_brackets():
    figure = demo_plots.side_by_side(
        IMAGES, [7, 2, 9], {"serial": np.concatenate([CERTAIN, CERTAIN])}
    )
    assert texts(figure) == ["7", "2", "(1)"]


def test_one_digit_has_all_probabilities_of_each_network():
    figure = demo_plots.one_digit(IMAGES[0], 7, {"serial": CERTAIN[0], "pipeline": CERTAIN[1]})
    assert len(texts(figure)) == 20 and texts(figure).count("100%") == 2


def test_speedups_are_over_the_serial_run_of_the_same_model():
    ax = demo_plots.speedup_bars(frame())
    assert sorted(round(bar.get_width(), 6) for bar in ax.patches if bar.get_width()) == [1, 1, 1.5]


def test_the_illustration_names_both_ranks_on_both_sides():
    figure = illustration.data_and_model_parallelism()
    for ax in figure.axes:
        words = " ".join(text.get_text() for text in ax.texts)
        assert all(word in words for word in ("rank 0", "rank 1", "layer 4"))
