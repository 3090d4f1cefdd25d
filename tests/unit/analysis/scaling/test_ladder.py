"""The ladder: each rung against the one it changes, and all against the best serial run."""

import math

import pytest

from nnpar_lib.analysis.claims import data_parallelism
from nnpar_lib.analysis.scaling import ladder
from nnpar_lib.records import store
from tests.unit.analysis.scaling.test_speedups import parallel, run

OLD = {"serial": (100, "tutorial"), "root and workers": (80, "root_worker")}
NEW = {
    "serial": (100, "tutorial"),
    "serial, mended": (500, "serial"),
    "serial, recorded": (400, "serial"),
    "root and workers": (80, "root_worker"),
    "+ overlap": (60, "gradient_averaging"),
    "+ shared memory": (750, "gradient_averaging"),
}


def climbed(rungs, num_repeats=7):
    """Return the runs of rungs, each at its rate; a repeat is as slow as all of its rungs."""
    records, labels = [], []
    for repeat in range(num_repeats):
        for label, (rate, strategy) in rungs.items():
            rate_of_repeat = rate * (1 + repeat / 10)
            one_rank = strategy in ("serial", "tutorial")
            runs_at = run if one_rank else parallel
            options = {"strategy": strategy} if one_rank else {"num_ranks": 2}
            records.append(runs_at(rate_of_repeat, repeat=repeat, **options))
            labels.append(label)
    return store.frame(records).assign(label=labels)


def test_each_rung_is_compared_with_the_rung_that_it_changes():
    table = ladder.gains(climbed(NEW)).set_index("label")
    assert table["speedup"]["serial, mended"] == pytest.approx(5)
    assert table["speedup"]["serial, recorded"] == pytest.approx(0.8)
    assert table["speedup"]["root and workers"] == pytest.approx(0.8), "over the tutorial's loop"
    assert table["speedup"]["+ shared memory"] == pytest.approx(750 / 60)
    assert math.isnan(table["speedup"]["serial"]) and table["change"]["serial"] == ""
    assert table["change"]["+ shared memory"] == ladder.FASTER


def test_speedups_are_over_the_fastest_serial_rung_and_not_over_a_slow_one():
    frame = climbed(NEW)
    table = ladder.gains(frame).set_index("label")
    assert ladder.best_serial(frame) == "serial, mended"
    assert table["over_serial"]["+ shared memory"] == pytest.approx(1.5)
    assert table["over_serial_low"]["+ shared memory"] == pytest.approx(1.5)
    assert table["over_serial"]["serial"] == pytest.approx(0.2)


def test_a_rung_that_is_slower_says_why_and_no_other_does():
    table = ladder.gains(climbed(NEW))
    slower = table[table["change"] == ladder.SLOWER]["label"].tolist()
    assert slower == ["serial, recorded", "root and workers", "+ overlap"]
    words = ladder.slower_in_words(table)
    assert len(words) == 3 and "1.33 times as long" in words[2] and "adds latency" not in words[1]
    assert words[2].endswith(f"{ladder.RUNGS['+ overlap'].slower}.")
    assert (table["why"] != "").sum() == 3


def test_what_a_serial_loop_gains_too_is_not_called_parallelism():
    kinds = {name: rung.is_parallelism for name, rung in ladder.RUNGS.items()}
    serial_code = [name for name, is_parallelism in kinds.items() if not is_parallelism]
    assert {"serial, mended", "+ data in memory", "+ recorded steps"} <= set(serial_code)
    table = data_parallelism.ladder_table(climbed(NEW)).set_index("label")
    assert table["kind"]["serial, mended"] == "serial code"
    assert table["kind"]["+ shared memory"] == "parallelism"


def test_few_repeats_decide_nothing():
    table = ladder.gains(climbed(NEW, num_repeats=2))
    assert set(table["change"]) == {"", "too few repeats"} and ladder.slower_in_words(table) == []


def test_records_from_before_a_serial_rung_was_mended_have_no_speedup_over_it():
    frame = climbed(OLD)
    numbers = data_parallelism.ladder(frame)
    assert ladder.best_serial(frame) == "" and numbers["ladder-best-serial"] == "absent"
    assert math.isnan(numbers["ladder-speedup"]) and math.isnan(numbers["ladder-mended"])
    assert numbers["ladder-first"] == pytest.approx(1.25)
    assert ladder.gains(frame)["over_serial"].isna().all()


def test_the_numbers_of_the_chapter_are_those_of_the_last_rung():
    numbers = data_parallelism.ladder(climbed(NEW))
    assert numbers["ladder-last-rung"] == "+ shared memory"
    assert numbers["ladder-last"] == pytest.approx(7.5)
    assert numbers["ladder-mended"] == pytest.approx(5)
    assert numbers["ladder-speedup"] == pytest.approx(1.5)


def test_a_rung_that_was_run_again_as_a_control_says_what_is_noise_and_is_no_rung():
    frame = climbed({**NEW, "control": (900, "gradient_averaging")})
    table = ladder.gains(frame)
    assert table["label"].tolist() == list(NEW)
    noise = ladder.noise(frame)
    over_itself = 900 / 80  # the first rung of this config, which all on two ranks have here
    assert (noise.low, noise.high) == pytest.approx((1 / over_itself, over_itself))
    changes = table.set_index("label")["change"]
    assert changes["serial, mended"] == ladder.NO_DIFFERENT, "5 is inside of the noise"
    assert changes["+ shared memory"] == ladder.FASTER, "12.5 is not"
    assert data_parallelism.ladder(frame)["ladder-last-rung"] == "+ shared memory"


def test_without_a_control_the_noise_is_1_alone():
    assert (ladder.noise(climbed(NEW)).low, ladder.noise(climbed(NEW)).high) == (1, 1)
