"""The table of how quiet a machine was: a row for each moment and model."""

import dataclasses

from nnpar_lib.analysis.claims import quietness
from nnpar_lib.config import RunConfig
from tests.unit.experiments.test_survey import ORIGIN, run_record

NAMES = ("1 core", "1 core again", "2 at once")


def runs(moment, at, *repeats):
    """Return runs of the mlp at a moment with the rates of each repeat, in the order of NAMES."""
    campaign = {"moment": moment, "at": at, "busy_cores": 0.1, "waited_seconds": 2.0}
    origin = {**ORIGIN, "campaign": campaign, "load_average": 0.5}
    config = RunConfig(num_steps=1)
    return [
        dataclasses.replace(run_record(config, "noise-mlp", name, repeat, rate), provenance=origin)
        for repeat, rates in enumerate(repeats)
        for name, rate in zip(NAMES, rates, strict=True)
    ]


def test_a_moment_has_the_extremes_of_a_run_over_itself_and_what_two_at_once_leave_each():
    table = quietness.table(
        runs("before 00", "2026-11-28T04:20:00+00:00", (100, 110, 180), (100, 95, 160))
    )
    assert table.to_dict("records") == [
        {
            "moment": "before 00",
            "time": "04:20",
            "model": "mlp",
            "again_low": 0.95,
            "again_high": 1.1,
            "at_once": 0.85,
            "busy_cores": 0.1,
            "waited_seconds": 2.0,
            "load_average": 0.5,
        }
    ]


def test_moments_are_in_order_and_the_last_measurement_of_one_counts():
    table = quietness.table(
        [
            *runs("before 01", "2026-11-28T04:20:00+00:00", (100, 50, 180)),
            *runs("before 00", "2026-11-28T04:10:00+00:00", (100, 100, 200)),
            *runs("before 01", "2026-11-28T05:00:00+00:00", (100, 100, 200)),
        ]
    )
    assert table["moment"].tolist() == ["before 00", "before 01"]
    assert table["again_low"].tolist() == [1.0, 1.0] and table["time"].tolist()[1] == "05:00"


def test_without_records_the_table_has_its_columns_and_no_row():
    assert list(quietness.table([])) == quietness.COLUMNS and quietness.table([]).empty
