"""What the figures show, read back from their axes, and what is written to files."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nnpar_lib.analysis.figures import lines, plots, theme
from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import OF_MESSAGES, STRATEGIES
from nnpar_lib.records import store
from nnpar_lib.records.kinds import AllreduceRecord, RunRecord

mpl.use("Agg")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Run each test in a folder of its own, under the theme, and let go of its figures."""
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context():
        plots.theme()
        yield
    plt.close("all")


def run(rate=1000.0, *, repeat=0, threads=1, cores=4, accuracies=(0.5, 0.8, 0.9), **parameters):
    config = RunConfig(num_threads=threads, **parameters)
    num_examples = 300 * config.global_batch_size
    seconds = num_examples / rate
    history = [
        {
            "epoch": i,
            "step": 100 * i,
            "train_seconds": seconds * i / 3,
            "train_loss": 1.0,
            "test_accuracy": a,
        }
        for i, a in enumerate(accuracies, start=1)
    ]
    return RunRecord(
        strategy=config.strategy,
        model=config.model,
        dataset=config.dataset,
        num_ranks=config.num_ranks,
        threads_per_rank=threads,
        global_batch_size=config.global_batch_size,
        optimizer=config.optimizer,
        num_steps=300,
        num_examples=num_examples,
        train_seconds=seconds,
        samples_per_second=rate,
        compute_seconds=0.6 * seconds,
        communicate_seconds=0.2 * seconds,
        wait_seconds=0.1 * seconds,
        activity_seconds={},
        final_train_loss=0.1,
        final_test_accuracy=0.9,
        diverged=False,
        weights_sha256="",
        num_parameters=10,
        oversubscribed=config.num_ranks * threads > cores,
        bound=True,
        config=config.to_dict(),
        provenance={"host": "here"},
        history=history,
        repeat=repeat,
    )


def averaging(rate, num_ranks, **parameters):
    return run(rate, strategy="gradient_averaging", num_ranks=num_ranks, **parameters)


def allreduces(num_elements=(1000, 100_000)):
    return store.frame(
        [
            AllreduceRecord(
                allreduce=way,
                num_ranks=2,
                num_elements=n,
                dtype="float32",
                provenance={},
                seconds=[1e-6 * n * slow, 1.1e-6 * n * slow],
                oversubscribed=False,
            )
            for way, slow in (("shared", 1), ("mpi", 3))
            for n in num_elements
        ]
    )


def many():
    """Return two repeats of three ways to run, where 8 ranks are more than the cores."""
    return store.frame(
        [
            record
            for repeat in range(2)
            for record in (
                run(1000 + repeat, repeat=repeat),
                *(averaging(900 * min(p, 4) + repeat, p, repeat=repeat) for p in (1, 2, 4, 8)),
                *(averaging(800 * min(p, 4), p, repeat=repeat, allreduce="mpi") for p in (1, 2, 4)),
            )
        ]
    )


def weak():
    return store.frame(
        [run(1000, global_batch_size=64)]
        + [averaging(900 * p, p, global_batch_size=64 * p) for p in (2, 4)]
    )


def rungs():
    frame = store.frame(
        [run(300, strategy="tutorial"), run(1000), averaging(1800, 2), averaging(1700, 2, repeat=1)]
    )
    return frame.assign(
        label=["as published", "serial", "gradients averaged", "gradients averaged"]
    )


CALLS = {
    "strong_scaling": lambda: plots.strong_scaling(many()),
    "weak_scaling": lambda: plots.weak_scaling(weak()),
    "threads_against_ranks": lambda: plots.threads_against_ranks(many()),
    "ladder": lambda: plots.ladder(rungs()),
    "time_split": lambda: plots.time_split(many()),
    "allreduce": lambda: plots.allreduce(allreduces()),
    "accuracy_curves": lambda: plots.accuracy_curves(many()),
    "throughput": lambda: plots.throughput(weak()),
}
ONE_POINT = {
    "strong_scaling": lambda: plots.strong_scaling(store.frame([run()])),
    "weak_scaling": lambda: plots.weak_scaling(store.frame([run()])),
    "threads_against_ranks": lambda: plots.threads_against_ranks(store.frame([averaging(9, 2)])),
    "ladder": lambda: plots.ladder(rungs()[:1]),
    "time_split": lambda: plots.time_split(store.frame([run()])),
    "allreduce": lambda: plots.allreduce(allreduces([1000])[:1]),
    "accuracy_curves": lambda: plots.accuracy_curves(store.frame([run(accuracies=(0.5,))])),
    "throughput": lambda: plots.throughput(store.frame([run()])),
}


def tick_labels(axis):
    axis.axes.figure.canvas.draw()
    return [t.get_text() for t in axis.get_ticklabels() if t.get_text()]


def points_of(ax, face):
    """Return the x of all markers that are filled with a colour."""
    return [
        float(x)
        for line in ax.lines
        if line.get_marker() not in ("None", "_", "|", 2, 3)
        and line.get_linestyle() == "None"
        and line.get_markerfacecolor() == face
        for x in line.get_xdata()
    ]


def texts_of(ax):
    return [t.get_text().replace("\n", " ").replace(lines.NBSP, " ") for t in ax.texts]


@pytest.mark.parametrize("calls", [CALLS, ONE_POINT], ids=["many", "one point"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning", "error::FutureWarning")
def test_every_plot_draws_names_its_axes_and_writes_no_file(name, calls, tmp_path):
    ax = calls[name]()
    ax.figure.canvas.draw()
    assert ax.get_xlabel() and (ax.get_ylabel() or tick_labels(ax.yaxis))
    assert tick_labels(ax.xaxis) and tick_labels(ax.yaxis)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CALLS)
def test_every_plot_draws_into_the_axes_it_is_given(name):
    _, ax = plt.subplots()
    frames = {"weak_scaling": weak, "throughput": weak, "ladder": rungs, "allreduce": allreduces}
    assert getattr(plots, name)(frames.get(name, many)(), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("name", CALLS)
def test_no_two_texts_overlap(name):
    ax = CALLS[name]()
    ax.figure.canvas.draw()
    ticks = [t for axis in (ax.xaxis, ax.yaxis) for t in axis.get_ticklabels() if t.get_text()]
    boxes = [mpl.text.Text.get_window_extent(t) for t in [*ax.texts, *ticks]]
    for i, box in enumerate(boxes):
        assert not [other for other in boxes[i + 1 :] if box.padded(-1).overlaps(other.padded(-1))]


def test_strong_scaling_has_ticks_at_the_counts_and_the_ideal_dashed():
    ax = plots.strong_scaling(store.frame([run(), *(averaging(900 * p, p) for p in (2, 3, 6))]))
    assert tick_labels(ax.xaxis) == ["1", "2", "3", "6"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    ideal = [line for line in ax.lines if line.get_color() == theme.GREY]
    assert [i.get_linestyle() for i in ideal] == ["--"]
    assert [list(data) for data in ideal[0].get_data()] == [[1, 2, 3, 6]] * 2


def test_ticks_too_near_to_read_go_without_a_label():
    frame = store.frame([run(100 + b, global_batch_size=b) for b in (100, 101, 104, 1000)])
    ax = plots.throughput(frame)
    assert tick_labels(ax.xaxis) == ["100", "1000"]
    assert list(ax.get_xticks()) == [100, 101, 104, 1000]


def test_oversubscribed_points_are_hollow_and_explained():
    ax = plots.strong_scaling(many())
    blue = theme.style_of("gradient_averaging", "shared").colour
    assert points_of(ax, "white") == [8]
    assert points_of(ax, blue) == [1, 2, 4]
    assert any("hollow: more ranks" in text for text in texts_of(ax))
    assert not any("hollow" in text for text in texts_of(plots.weak_scaling(weak())))


def test_lines_are_labelled_and_whiskers_are_explained():
    texts = texts_of(plots.strong_scaling(many()))
    assert {
        "serial",
        "gradient averaging (shared memory)",
        "gradient averaging (MPI)",
        "linear speedup",
    } <= {*texts}
    assert any("whiskers: quartiles of 2 repeats" in text for text in texts)


def test_whiskers_reach_from_quartile_to_quartile():
    frame = store.frame([run(rate, repeat=i) for i, rate in enumerate([100, 200, 300, 400, 500])])
    ax = plots.throughput(frame)
    (bars,) = ax.containers
    (segment,) = bars[2][0].get_segments()
    assert [y for _, y in segment] == [200, 400]


def test_siblings_of_a_strategy_are_told_apart_by_label_and_lightness():
    frame = store.frame(
        [averaging(900 * p, p, global_batch_size=b) for p in (2, 4) for b in (64, 128)]
    )
    ax = plots.throughput(frame)
    labels = [t for t in ax.texts if "ranks" in t.get_text() and "hollow" not in t.get_text()]
    assert [text[-7:] for text in texts_of(ax)] == ["2 ranks", "4 ranks"]
    assert (
        labels[0].get_color()
        != labels[1].get_color()
        == theme.style_of("gradient_averaging", "shared").colour
    )


def test_threads_and_ranks_are_drawn_over_the_cores_that_they_use():
    frame = store.frame(
        [run(1000), run(1500, threads=2), averaging(1900, 2), averaging(2500, 2, threads=2)]
    )
    ax = plots.threads_against_ranks(frame)
    assert points_of(ax, theme.style_of("serial").colour) == [1, 2]
    assert tick_labels(ax.xaxis) == ["1", "2", "4"]
    assert {
        "serial, threads of one process",
        "gradient averaging (shared memory), 2 threads a rank",
    } <= {*texts_of(ax)}


def test_ladder_has_seconds_an_epoch_in_order_and_the_serial_line():
    ax = plots.ladder(rungs())
    assert tick_labels(ax.yaxis) == ["as published", "serial", "gradients averaged"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(
        [40, 12, np.mean([12 / 1.8, 12 / 1.7])], rel=0.01
    )  # 94 batches of 128 hold a few examples too many
    (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == pytest.approx([12, 12], rel=0.01)
    assert "40.1 s" in texts_of(ax)
    assert ax.yaxis.get_inverted()


def test_time_split_bars_sum_to_one():
    ax = plots.time_split(many())
    widths = (
        pd.DataFrame([[bar.get_y(), bar.get_width()] for bar in ax.patches]).groupby(0)[1].sum()
    )
    assert len(widths) == 8 and list(widths) == pytest.approx([1] * 8)
    assert [bar.get_x() for bar in ax.patches[::8]] == pytest.approx(
        [0, 0.6, 0.8, 0.9]
    )  # each part after the last
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "compute",
        "communicate",
        "wait",
        "other",
    ]
    assert sum(label.endswith("*") for label in tick_labels(ax.yaxis)) == 1


@pytest.mark.parametrize(
    ("x", "last"), [("epoch", 3), ("step", 300), ("examples", 38_400), ("train_seconds", 38.4)]
)
def test_accuracy_is_drawn_against_what_was_asked(x, last):
    ax = plots.accuracy_curves(
        store.frame([run(seed=0), run(seed=1, accuracies=(0.5, 0.8, 0.7))]), x=x
    )
    (line,) = ax.lines
    assert line.get_xdata()[-1] == pytest.approx(last)
    assert list(line.get_ydata()) == pytest.approx([0.5, 0.8, 0.8])


def test_every_strategy_has_a_look_of_its_own():
    styles = [theme.style_of(s, a) for s in STRATEGIES for a in ("shared", "mpi", "overlapped")]
    styles += [theme.style_of("gradient_averaging", a) for a in OF_MESSAGES]
    styles = list(dict.fromkeys(styles))
    assert {s.label for s in styles} == {s.label for s in theme.STYLES.values()}
    for look in ("colour", "marker", "label"):
        assert len({getattr(s, look) for s in styles}) == len(styles)
    assert theme.style_of("ring_of_fire").label == "ring of fire"


def test_spread_keeps_boxes_apart_near_where_they_belong_and_inside():
    wanted, heights = [0.5, 0.52, 0.1, 0.99], [0.1, 0.2, 0.1, 0.1]
    found = lines.spread(wanted, heights)
    boxes = sorted((y - h / 2, y + h / 2) for y, h in zip(found, heights, strict=True))
    assert all(below[1] <= above[0] + 1e-9 for below, above in pairwise(boxes))
    assert found[2] == pytest.approx(0.1) and found[3] == pytest.approx(0.95)
    assert np.mean(found[:2]) == pytest.approx(0.51)
    assert lines.spread([0.3], [0.1]) == pytest.approx([0.3])


def test_save_writes_both_kinds_with_the_alt_text(tmp_path):
    ax = plots.ladder(rungs())
    alt = "Speed & 'scaling' <of> three rungs: the last is fastest"
    svg, png = plots.save(ax.figure, tmp_path / "figures", "the_ladder", alt)
    root = ET.parse(svg).getroot()
    assert root.find(f"{SVG}title").text == "the ladder"
    assert root.find(f"{SVG}desc").text == alt
    assert root.get("role") == "img"
    assert Image.open(png).text["Description"] == alt
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [
        "the_ladder.png",
        "the_ladder.svg",
    ]


def test_save_is_deterministic(tmp_path):
    written = [
        [
            p.read_bytes()
            for p in plots.save(plots.strong_scaling(many()).figure, tmp_path / str(i), "f", "Alt.")
        ]
        for i in range(2)
    ]
    assert written[0] == written[1]


def test_a_figure_without_alt_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no alt text"):
        plots.save(plt.figure(), tmp_path, "bare", "  ")
    assert list(tmp_path.iterdir()) == []
