"""Rooflines and speedups, from records whose answer is known."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from nnpar_lib.analysis.cost import roofline
from nnpar_lib.analysis.figures import precision_plots
from nnpar_lib.analysis.scaling import precision
from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.tasks import roofline as measurement

mpl.use("Agg")

BLOCKS = [
    {
        "block": 0,
        "layers": "Conv2d",
        "flops": 100.0,
        "bytes": 10.0,
        "num_parameters": 1,
        "seconds": 2.0,
    },
    {
        "block": 1,
        "layers": "Linear",
        "flops": 10.0,
        "bytes": 100.0,
        "num_parameters": 9,
        "seconds": 8.0,
    },
]
RECORD = {
    "model": "cnn",
    "precision": "float32",
    "memory_format": "contiguous",
    "convolution": "torch",
    "batch_size": 4,
    "blocks": BLOCKS,
    "ceiling_flop_per_second": 100.0,
    "bytes_per_second": 25.0,
}


def test_each_block_is_held_against_its_own_ceiling():
    table = roofline.table(pd.DataFrame([RECORD]))
    assert table["limit"].tolist() == ["computing", "memory"]
    assert table["bound"].tolist() == [1.0, 4.0] and table["reached"].tolist() == [0.5, 0.5]
    assert table["share"].tolist() == pytest.approx([0.2, 0.8])


def test_shares_are_those_of_one_way_to_compute():
    other = RECORD | {"convolution": "im2col"}
    table = roofline.table(pd.DataFrame([RECORD, other]))
    assert table["way"].tolist() == 2 * ["float32, contiguous"] + 2 * [
        "float32, contiguous, im2col"
    ]
    assert table["share"].tolist() == pytest.approx([0.2, 0.8, 0.2, 0.8])


def test_the_figure_has_a_numbered_point_a_block_under_the_ceilings():
    ax = precision_plots.roofline(pd.DataFrame([RECORD]))
    assert [text.get_text() for text in ax.texts] == ["0", "1"]
    ceiling, points = ax.lines
    assert max(ceiling.get_ydata()) == pytest.approx(100e-9)
    assert points.get_xdata().tolist() == [10.0, 0.1]
    plt.close("all")


def test_a_measured_roofline_covers_every_block():
    config = RunConfig(model="cnn", channels=(3,), hidden=(), global_batch_size=16, num_threads=1)
    for precision_of_run in ("float32", "bf16"):
        record = measurement._measure(config.replace(precision=precision_of_run), "roofline")
        assert [block["num_parameters"] for block in record.blocks] == [30, 3 * 13 * 13 * 10 + 10]
        assert all(block["seconds"] > 0 and block["flops"] > 0 for block in record.blocks)
        assert record.ceiling_flop_per_second > 1e9 and record.bytes_per_second > 1e8


def test_speedups_are_taken_repeat_by_repeat():
    runs = pd.DataFrame(
        [
            {
                "model": "cnn",
                "label": label,
                "repeat": repeat,
                "samples_per_second": rate * (repeat + 1),
            }
            for repeat in range(3)
            for label, rate in (("plain", 10.0), ("bf16", 25.0))
        ]
    )
    table = precision.speedups(runs, "plain")
    assert table["speedup"].tolist() == [1.0, 2.5] and table["num_repeats"].tolist() == [3, 3]
    ax = precision_plots.speedups(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cnn, plain", "cnn, bf16"]
    plt.close("all")


def test_what_a_precision_loses_is_counted_over_the_seeds_that_both_have():
    runs = pd.DataFrame(
        [
            ("cnn", "float32", 0, 0.990),
            ("cnn", "float32", 1, 0.992),
            ("cnn", "bf16", 0, 0.989),
            ("cnn", "bf16", 1, 0.993),
            ("cnn", "bf16", 2, 0.5),
            ("mlp", "bf16", 0, 0.98),
        ],
        columns=["model", "precision", "seed", "final_test_accuracy"],
    )
    table = precision.accuracies(
        runs.assign(cpu="", num_ranks=1, num_epochs=2, global_batch_size=64)
    )
    assert table[["model", "precision", "num_seeds"]].to_numpy().tolist() == [
        ["cnn", "float32", 2],
        ["cnn", "bf16", 3],
        ["mlp", "bf16", 1],
    ]
    assert table["lost"].tolist()[:2] == pytest.approx([0, 0]) and table[
        "lost"
    ].isna().tolist() == [False, False, True]
    assert table["low"].tolist() == [0.990, 0.5, 0.98] and table["high"].tolist() == [
        0.992,
        0.993,
        0.98,
    ]


def test_accuracies_tell_convolutions_as_products_apart():
    runs = pd.DataFrame(
        [("float32", "torch", 0.99), ("bf16", None, 0.98), ("bf16", "im2col", 0.97)],
        columns=["precision", "convolution", "final_test_accuracy"],
    )
    training = {"model": "resnet18", "num_ranks": 1, "num_epochs": 2, "global_batch_size": 64}
    table = precision.accuracies(runs.assign(cpu="", seed=0, **training))
    assert table["precision"].tolist() == ["float32", "bf16, im2col", "bf16"]
    assert table["lost"].tolist() == pytest.approx([0, 0.02, 0.01])


def test_accuracies_of_two_processors_are_not_compared():
    runs = pd.DataFrame(
        [("float32", "AMD", 0.99), ("bf16", "AMD", 0.98), ("bf16", "Intel", 0.5)],
        columns=["precision", "name", "final_test_accuracy"],
    )
    training = {"model": "cnn", "seed": 0, "num_ranks": 1, "num_epochs": 2, "global_batch_size": 8}
    runs["provenance"] = [{"cpu": name} for name in runs["name"]]
    table = precision.accuracies(runs.assign(**training))
    assert table["cpu"].tolist() == ["AMD", "AMD", "Intel"]
    assert table["accuracy"].tolist() == [0.99, 0.98, 0.5]
    assert table["lost"].isna().tolist() == [False, False, True]


def test_no_runs_have_no_accuracies():
    assert precision.accuracies(pd.DataFrame()).empty
