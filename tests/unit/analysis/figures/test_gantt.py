"""Charts and traces of events."""

import json
from dataclasses import replace

import pytest

from nnpar_lib.analysis.cost import traced_pipelines
from nnpar_lib.analysis.figures import gantt, theme
from nnpar_lib.records import store, trace
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.schedules import Pipeline, ideal_bubble_fraction
from tests.conftest import ROOT

STEP = [["load", -1, -1, 0.0, 0.1], ["forward", 0, 0, 0.1, 0.2], ["backward", 0, 0, 0.4, 0.6]]
EVENTS = [
    [*STEP, *([name, stage, mb, start + 1, end + 1] for name, stage, mb, start, end in STEP)],
    [
        ["load", -1, -1, 1.0, 1.05],
        ["wait", 1, 0, 1.05, 1.2],
        ["forward", 1, 0, 1.2, 1.3],
        ["backward", 1, 0, 1.3, 1.4],
    ],
]


def test_the_last_step_starts_with_its_first_forward_pass():
    frame = traced_pipelines.last_step(EVENTS)
    assert len(frame) == 7
    assert frame.loc[frame["activity"] == "forward", "start"].min() == 0
    assert traced_pipelines.bubble_fraction(frame) == pytest.approx(1 - 0.5 / (2 * 0.5))


def test_the_prediction_has_the_measured_seconds_of_each_stage():
    frame = traced_pipelines.predicted("gpipe", Pipeline(2, 1), traced_pipelines.last_step(EVENTS))
    assert frame["end"].max() == pytest.approx(0.1 + 0.1 + 0.1 + 0.2)
    equal = traced_pipelines.last_step(
        [STEP, [[name, abs(stage), mb, start, end] for name, stage, mb, start, end in STEP]]
    )
    assert traced_pipelines.bubble_fraction(
        traced_pipelines.predicted("gpipe", Pipeline(1, 3), equal)
    ) == pytest.approx(0)
    assert ideal_bubble_fraction(2, 3) == pytest.approx(1 / 4)


def test_a_chart_has_a_bar_a_pass_and_a_row_a_rank():
    ax = gantt.gantt(traced_pipelines.last_step(EVENTS), theme.new_axes(), "a step")
    assert len(ax.patches) == 4
    assert [label.get_text() for label in ax.get_yticklabels()] == ["rank 0", "rank 1"]


def test_a_trace_has_the_fields_that_viewers_ask_for(tmp_path):
    record = next(
        one for one in store.load(ROOT / "report/results/bench.jsonl") if isinstance(one, RunRecord)
    )
    trace.write(tmp_path / "trace.json", replace(record, events=EVENTS))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    complete = [event for event in events if event["ph"] == "X"]
    assert names == ["rank 0", "rank 1"]
    assert len(complete) == 10
    assert all(
        event.keys() >= {"name", "cat", "ph", "pid", "tid", "ts", "dur"} for event in complete
    )
    assert complete[1]["ts"] == pytest.approx(0.1e6) and complete[1]["dur"] == pytest.approx(0.1e6)


def test_a_pipeline_stands_beside_what_its_schedule_allows():
    record = next(
        one for one in store.load(ROOT / "report/results/bench.jsonl") if isinstance(one, RunRecord)
    )
    config = {
        **record.config,
        "strategy": "pipeline",
        "schedule": "gpipe",
        "num_ranks": 2,
        "num_microbatches": 1,
    }
    events = [
        STEP,
        [["load", -1, -1, 0.0, 0.1], ["forward", 1, 0, 0.2, 0.3], ["backward", 1, 0, 0.3, 0.4]],
    ]
    rate = config["global_batch_size"]  # a step a second, where 0.5 seconds would do
    table = traced_pipelines.table(
        [replace(record, config=config, events=events, samples_per_second=rate, label="one")] * 3
    )
    found = table.iloc[0][
        ["share", "bubble", "bubble_simulated", "bubble_formula", "num_repeats"]
    ].astype(float)
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 3])
