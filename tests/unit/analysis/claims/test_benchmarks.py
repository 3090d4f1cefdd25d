"""The benchmarks' claims follow from their runs: the faster base, a control, and records of
before."""

from pathlib import Path

import pandas as pd
import pytest

from nnpar_lib.analysis.claims import benchmarks
from nnpar_lib.analysis.claims.benchmarks import CLAIMS, UNCONTROLLED, Claim
from nnpar_lib.analysis.scaling.ratio import AHEAD, TIE, UNDECIDED
from nnpar_lib.experiments import bench
from nnpar_lib.records import store

RECORDS = Path(__file__).parents[4] / "report" / "results" / "bench.jsonl"
SERIAL = {"strategy": "serial"}
DDP = {"strategy": "torch_ddp", "ddp_tuned": False}
TUNED = {"strategy": "torch_ddp", "ddp_tuned": True}
RANKS = {"strategy": "gradient_averaging"}


def runs(way, rates, label=""):
    common = {"kind": "run", "experiment": "steps", "label": label, "ddp_tuned": False, **way}
    return [
        {**common, "repeat": repeat, "samples_per_second": rate}
        for repeat, rate in enumerate(rates)
    ]


def row(rows, claim):
    return benchmarks.table(pd.DataFrame(rows), [claim]).iloc[0]


def measured_frame(num_repeats=6):
    """Return a frame as the benchmarks make it, with rates that were not measured."""
    groups = {**bench.groups("mnist"), "cpp": bench.cpp_configs("mnist")}
    rows = []
    for experiment, configs in groups.items():
        for config, label in zip(configs, bench.labels(configs), strict=True):
            values = {**config.to_dict(), "threads_per_rank": config.num_threads}
            rows += runs({**values, "experiment": experiment}, [1.0] * num_repeats, label)
    for index, kind in enumerate(bench.ALLREDUCES):
        label = "control" if kind in bench.ALLREDUCES[:index] else ""
        record = {"kind": "allreduce", "experiment": "allreduce", "allreduce": kind}
        record |= {"num_elements": 235_146, "seconds": [1.0] * num_repeats, "label": label}
        rows.append(record)
    return pd.DataFrame(rows)


def test_the_benchmarks_measure_every_claim_and_a_control_of_each():
    table = benchmarks.table(measured_frame())
    assert list(table["claim"]) == [claim.name for claim in CLAIMS]
    assert (table["num_repeats"] == 6).all()
    efficient = table["claim"].str.startswith("parallel efficiency")
    assert (table["verdict"][~efficient] == TIE).all()


def test_no_run_of_a_group_is_made_twice_but_for_its_control():
    for configs in bench.groups("mnist").values():
        names = bench.labels(configs)
        assert len({str(config) for config in configs}) == names.count("")
        assert 1 <= names.count("control") <= 2


def test_of_several_bases_the_fastest_is_compared():
    claim = Claim("", "steps", (DDP, TUNED), RANKS, goal=2.0)
    rows = [*runs(DDP, [1.0] * 6), *runs(TUNED, [2.0] * 6), *runs(RANKS, [3.0] * 6)]
    result = row(rows, claim)
    assert (result["measured"], result["outcome"]) == (1.5, "missed")


def test_a_control_is_no_repeat_of_what_it_controls():
    claim = Claim("", "steps", (SERIAL,), RANKS, control=RANKS)
    rows = [
        *runs(SERIAL, [1.0] * 6),
        *runs(RANKS, [1.5] * 6),
        *runs(RANKS, [1.2] * 6, "control"),
    ]
    result = row(rows, claim)
    assert result["measured"] == 1.5
    assert (result["control_low"], result["control_high"]) == pytest.approx((0.8, 1.25))
    assert result["verdict"] == AHEAD


def test_fewer_than_six_repeats_decide_nothing_and_their_spread_is_called_quartiles():
    claim = Claim("", "steps", (SERIAL,), RANKS, control=RANKS)
    rows = [*runs(SERIAL, [1.0] * 5), *runs(RANKS, [9.0] * 5), *runs(RANKS, [9.0] * 5, "control")]
    table = benchmarks.table(pd.DataFrame(rows), [claim])
    assert table.iloc[0]["verdict"] == UNDECIDED
    assert "quartiles" in benchmarks.text(table) and "95 %" not in benchmarks.text(table)


def test_records_from_before_controls_are_read_and_their_rows_say_that_there_is_none():
    frame = store.frame(store.load(RECORDS))
    table = benchmarks.table(frame[frame["label"] != "control"])
    names = set(table["claim"])
    assert "parallel efficiency of 2 ranks, mlp, local batch 64" in names
    assert len(table) and (table["num_repeats"] >= 7).all()
    assert set(table["verdict"]) == {UNCONTROLLED}
