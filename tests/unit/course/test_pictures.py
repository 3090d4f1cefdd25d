"""The pictures of the course can be read where they are small, and show what is computed."""

import json
import math
import re
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import predictions
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.course import cost_pictures, explorers, pictures
from nnpar_lib.schedules import Pipeline

COSTS = {"gradient averaging": (3.14, 123, 1.23e3), "hybrid": None}
DRAWINGS = [
    *(pictures.allreduce, pictures.serial_step, pictures.copies, pictures.stages),
    *(pictures.split_layers, pictures.three_cuts, pictures.ring, lambda: pictures.ring(5, 6)),
    *(cost_pictures.message_time, cost_pictures.regimes, cost_pictures.portions),
    *(cost_pictures.overhead, cost_pictures.rounding, cost_pictures.strong_and_weak),
    lambda: pictures.schedule("1f1b", Pipeline(4, 8)),
    lambda: cost_pictures.predicted_costs(
        4, COSTS, "Copies are predicted to be fastest on 4 ranks."
    ),
]
PHONE_WIDTH = 350  # pixels of a page's column on a screen of 390


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_words_are_large_enough_on_a_phone_and_inside_the_picture(drawing):
    picture = drawing()
    pixels_per_point = PHONE_WIDTH / (72 * picture.figure.get_size_inches()[0])
    FigureCanvasAgg(picture.figure).draw()
    frame = picture.figure.bbox.padded(1)
    texts = [
        text
        for ax in picture.figure.axes
        for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label)
        if text.get_text()
    ]
    assert texts and min(text.get_fontsize() for text in texts) * pixels_per_point >= 9
    outside = [
        text.get_text()
        for text in texts
        if not all(frame.contains(*corner) for corner in text.get_window_extent().corners())
    ]
    assert outside == []


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_a_picture_is_an_image_with_words_and_has_words_in_plain_text(drawing):
    picture = drawing()
    shown = picture._repr_mimebundle_()
    assert len(picture.alt) > 40 and f'alt="{picture.alt}"' in shown["text/html"]
    assert shown["text/plain"] == f"[picture] {picture.alt}"
    assert picture.svg() == drawing().svg()


@pytest.mark.parametrize("num_ranks", [2, 3, 4, 7])
def test_the_ring_sends_a_part_a_rank_and_ends_with_all_sums_everywhere(num_ranks):
    last = 2 * (num_ranks - 1)
    assert "0 of" in pictures.ring(num_ranks, 0).alt
    assert f"{num_ranks} of {num_ranks**2}" in pictures.ring(num_ranks, num_ranks - 1).alt
    assert f"{num_ranks**2} of {num_ranks**2}" in pictures.ring(num_ranks, last).alt
    for step in range(1, last + 1):
        _, arrived = pictures._ring_state(num_ranks, step)
        assert sorted(rank for rank, _ in arrived) == list(range(num_ranks))


def frames_of(explorer):
    """Return the frames that the script of an explorer holds."""
    start = explorer.html.index("const frames = ") + len("const frames = ")
    return json.JSONDecoder().raw_decode(explorer.html[start:])[0]


def test_the_explorer_of_schedules_holds_every_schedule_as_it_is_simulated():
    explorer = explorers.of_schedules()
    frames = frames_of(explorer)
    num_sizes = len(explorers.NUM_STAGES) * len(explorers.NUM_MICROBATCHES)
    assert len(frames) == len(schedules.SCHEDULES) * num_sizes
    index = schedules.SCHEDULES.index("gpipe")
    (num_ranks, ticks, length, *passes), words = frames[f"{index},2,2"]
    assert (num_ranks, ticks, length, len(passes)) == (4, 14, 1, 4 * 2 * 4 * 4)
    assert words.startswith("gpipe: idle 43% of the time, at most 4 forward")
    assert re.findall(r'(?:src|href)="(?!data:)', explorer.html) == []
    assert explorer.html.count('type="range"') == 3 and "http" not in explorer.picture.image()


def test_an_explorer_shows_its_middle_picture_where_no_script_runs():
    explorer = explorers.of_ring(3)
    frames = frames_of(explorer)
    assert [words for _, words in frames.values()][-1].endswith("9 of 9 parts are complete sums.")
    assert explorer.picture.alt == frames["2"][1]
    assert explorer._repr_mimebundle_()["text/plain"].startswith("[picture] A ring all-reduce")


def test_the_fastest_batch_of_the_explorer_is_where_the_curve_is_lowest():
    picture = explorers._time_to_goal(256, 4)
    ax = picture.figure.axes[0]
    batches, seconds = ax.lines[0].get_data()
    assert batches[seconds.argmin()] == pytest.approx(256, rel=0.1)
    assert "about 256 examples" in picture.alt


def test_the_explorer_of_costs_holds_what_is_predicted_for_every_choice():
    explorer = explorers.of_costs(predictions.V100)
    frames = frames_of(explorer)
    assert len(frames) == math.prod(map(len, explorers.COST_CHOICES.values()))
    (num_ranks, *costs), words = frames["0,1,2,2"]
    machine = replace(predictions.V100, message=AlphaBeta(50e-6, 1 / 150e9))
    table = predictions.predict(
        machine, num_ranks=2, global_batch_size=256, num_layers=explorers.NUM_LAYERS
    )
    assert num_ranks == 2 and costs[-1] is None  # a hybrid needs four ranks
    assert [cost[0] for cost in costs[:-1]] == pytest.approx(list(table["speedup"]), rel=0.01)
    assert "gradient averaging is predicted to be fastest: 1.42 times" in words
    assert (
        explorer.picture.alt == frames["1,1,1,1"][1]
        and re.findall(r'(?:src|href)="(?!data:)', explorer.html) == []
    )
