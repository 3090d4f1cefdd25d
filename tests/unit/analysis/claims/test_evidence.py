"""Rows of evidence: a number with its interval, its control, and the commits of its records."""

import pandas as pd
import pytest

from nnpar_lib.analysis.claims import evidence
from nnpar_lib.analysis.scaling.ratio import TIE

SERIAL = {"strategy": "serial"}
RANKS = {"strategy": "gradient_averaging"}


def runs(way, rates, label=""):
    return [
        {**way, "config": dict(way), "label": label, "repeat": repeat, "samples_per_second": rate}
        for repeat, rate in enumerate(rates)
    ]


def test_a_ratio_stands_beside_the_control_of_the_same_runs():
    noisy = runs(RANKS, [1.0, 1.1, 1.2, 1.3, 1.2, 1.1], label="control")
    frame = pd.DataFrame(runs(SERIAL, [1.0] * 6) + runs(RANKS, [1.1] * 6) + noisy)
    row = evidence.ratio("ranks over serial", frame, SERIAL, RANKS)
    assert (row["measured"], row["verdict"]) == (pytest.approx(1.1), TIE)
    assert row["control_high"] == pytest.approx(1.3 / 1.1)
    assert evidence.control(frame[frame["label"] == ""]) is None


def test_words_name_quartiles_where_there_is_no_interval():
    rows = [
        evidence.number("six", [1, 2, 3, 4, 5, 6]),
        evidence.number("five", [1, 2, 3, 4, 5]),
        evidence.number("once", [1234.5]),
        evidence.estimate("fitted", 174.2, 168.1, 184.9, 10),
    ]
    table = evidence.in_words(rows, evidence.digits)
    assert list(table["value"]) == [
        "3.50 [1.00, 6.00]",
        "3.00 [quartiles 2.00, 4.00]",
        "1,234",
        "174 [168, 185]",
    ]
    assert set(table["control"]) == {"none"} and set(table["goal"]) == {""}


def test_a_commit_with_changes_is_marked():
    origins = [{"commit": "0123456789", "dirty": False}, {"commit": "9876543210", "dirty": True}]
    assert evidence.commits([*origins, {"commit": None}]) == "01234567, 98765432+, unknown"
