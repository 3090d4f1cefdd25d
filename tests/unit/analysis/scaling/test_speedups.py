"""Speedups, efficiencies and fits against cases whose answer is known."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnpar_lib.analysis import scaling
from nnpar_lib.config import RunConfig
from nnpar_lib.records import store
from nnpar_lib.records.kinds import AllreduceRecord, RunRecord


def run(
    rate=1000.0, *, repeat=0, threads=1, cores=4, accuracy=0.9, split=(0.7, 0.2, 0.1), **parameters
):
    """Return a record of a run of 100 steps at this rate of examples a second."""
    config = RunConfig(num_threads=threads, **parameters)
    num_examples = 100 * config.global_batch_size
    seconds = num_examples / rate
    compute, communicate, wait = (None if share is None else share * seconds for share in split)
    return RunRecord(
        strategy=config.strategy,
        model=config.model,
        dataset=config.dataset,
        num_ranks=config.num_ranks,
        threads_per_rank=threads,
        global_batch_size=config.global_batch_size,
        optimizer=config.optimizer,
        num_steps=100,
        num_examples=num_examples,
        train_seconds=seconds,
        samples_per_second=rate,
        compute_seconds=compute,
        communicate_seconds=communicate,
        wait_seconds=wait,
        activity_seconds={},
        final_train_loss=0.1,
        final_test_accuracy=accuracy,
        diverged=False,
        weights_sha256="",
        num_parameters=10,
        oversubscribed=config.num_ranks * threads > cores,
        bound=True,
        config=config.to_dict(),
        provenance={"host": "here"},
        repeat=repeat,
    )


def parallel(rate, num_ranks, **parameters):
    return run(rate, strategy="gradient_averaging", num_ranks=num_ranks, **parameters)


def row_of(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("num_ranks", [2, 7, 64])
def test_karp_flatt_gives_back_the_serial_fraction_of_amdahls_law(fraction, num_ranks):
    speedup = scaling.amdahl_speedup(fraction, num_ranks)
    assert scaling.karp_flatt(speedup, num_ranks) == pytest.approx(fraction, abs=1e-12)


def test_amdahl_and_efficiency_by_hand():
    assert scaling.amdahl_speedup(0.1, 10) == pytest.approx(1 / 0.19)
    assert scaling.parallel_efficiency(3, 4) == 0.75
    assert np.isnan(scaling.karp_flatt(1, 1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: scaling.karp_flatt(0, 2),
        lambda: scaling.karp_flatt(1, 0),
        lambda: scaling.parallel_efficiency(-1, 2),
        lambda: scaling.amdahl_speedup(1.1, 2),
        lambda: scaling.amdahl_speedup(0.1, 0),
        lambda: scaling.amdahl_speedup(float("nan"), 2),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(ValueError, match=r"=(-?[\d.]+|nan) is"):
        call()


def test_summary_has_quartiles_range_and_count_in_order_of_appearance():
    frame = pd.DataFrame({"name": ["b"] * 5 + ["a"], "x": [5.0, 1, 2, 3, 4, 7]})
    table = scaling.summarize(frame, ["name"], "x")
    assert list(table["name"]) == ["b", "a"]
    assert list(table.iloc[0][["median", "low", "high", "min", "max", "num_repeats"]]) == [
        3,
        2,
        4,
        1,
        5,
        5,
    ]
    assert table.iloc[1]["num_repeats"] == 1


def test_summary_leaves_out_missing_values_and_names_a_missing_column():
    frame = pd.DataFrame({"name": ["a", "a"], "x": [None, 2.0]})
    assert scaling.summarize(frame, ["name"], "x").iloc[0]["num_repeats"] == 1
    with pytest.raises(ValueError, match="no column 'y'"):
        scaling.summarize(frame, ["name"], "y")


def test_pairing_cancels_a_drift_that_both_share():
    drift = [1.0, 0.5, 0.25, 2.0, 4.0]
    records = [run(1000 * d, repeat=i) for i, d in enumerate(drift)]
    records += [parallel(1800 * d, 2, repeat=i) for i, d in reversed(list(enumerate(drift)))]
    ratio = scaling.paired_ratio(store.frame(records), {"strategy": "serial"}, {"num_ranks": 2})
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.8,) * 3)
    assert ratio.num_repeats == 5


def test_only_repeats_that_both_have_are_paired():
    records = [
        run(1000, repeat=0),
        run(1, repeat=1),
        parallel(1500, 2, repeat=0),
        parallel(9, 2, repeat=2),
    ]
    ratio = scaling.paired_ratio(store.frame(records), {"strategy": "serial"}, {"num_ranks": 2})
    assert (ratio.median, ratio.num_repeats) == (1.5, 1)
    assert np.isnan(ratio.ci_low)


def ratio_of_rates(rates):
    """Return the ratio of two ways to run, the second one with these rates."""
    num_repeats = len(rates)
    frame = pd.DataFrame(
        {
            "way": ["a"] * num_repeats + ["b"] * num_repeats,
            "repeat": [*range(num_repeats)] * 2,
            "rate": [1.0] * num_repeats + [*rates],
        }
    )
    return scaling.paired_ratio(frame, {"way": "a"}, {"way": "b"}, "rate")


@pytest.mark.parametrize("num_repeats", [1, 2, 5])
def test_fewer_than_six_repeats_have_quartiles_and_no_interval(num_repeats):
    ratio = ratio_of_rates([*range(1, num_repeats + 1)])
    assert np.isnan([ratio.ci_low, ratio.ci_high]).all()
    assert np.isfinite([ratio.low, ratio.high]).all()


def test_an_interval_lies_between_the_order_statistics_of_the_binomial_distribution():
    """With 6 repeats all are above the median with 2^-6, with 10 at most one is with 11 / 2^10."""
    six, ten = (ratio_of_rates([*range(1, count + 1)]) for count in (6, 10))
    assert (six.ci_low, six.ci_high) == (1, 6)
    assert (ten.ci_low, ten.ci_high) == (2, 9)


def test_a_table_shows_intervals_where_every_row_has_one_and_else_quartiles():
    many = pd.DataFrame({"num_repeats": [6, 10]})
    few = pd.DataFrame({"num_repeats": [5, 10]})
    assert scaling.spread_columns(many) == {"ci_low": "95 % from", "ci_high": "to"}
    assert scaling.spread_columns(few) == {"low": "quartile 1", "high": "quartile 3"}


def test_interval_of_the_median_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        ratio = ratio_of_rates(np.exp(generator.normal(0, 0.1, size=15)))
        assert ratio.ci_low <= ratio.median <= ratio.ci_high
        covered += ratio.ci_low <= 1 <= ratio.ci_high
    assert 93 <= covered <= 100


def test_ratio_says_what_is_missing():
    frame = store.frame([run(), parallel(1, 2, repeat=1)])
    with pytest.raises(ValueError, match=r"num_ranks': 3.*num_ranks is 1, 2"):
        scaling.paired_ratio(frame, {"strategy": "serial"}, {"num_ranks": 3})
    with pytest.raises(ValueError, match="no column 'ranks'"):
        scaling.paired_ratio(frame, {"ranks": 1}, {"num_ranks": 2})
    with pytest.raises(ValueError, match="share no repeat"):
        scaling.paired_ratio(frame, {"strategy": "serial"}, {"num_ranks": 2})


def test_strong_scaling_tells_pipelines_with_different_schedules_apart():
    frame = store.frame(
        run(rate, strategy=strategy, num_ranks=num_ranks, schedule=schedule, repeat=repeat)
        for repeat in range(3)
        for rate, strategy, num_ranks, schedule in (
            (1000.0, "serial", 1, "sequential"),
            (900.0, "pipeline", 2, "sequential"),
            (1800.0, "pipeline", 2, "1f1b"),
        )
    )
    table = scaling.strong_scaling(frame)
    assert len(table) == 3
    assert row_of(table, schedule="sequential")["speedup"] == pytest.approx(0.9)
    assert row_of(table, schedule="1f1b")["speedup"] == pytest.approx(1.8)
    assert pd.isna(row_of(table, strategy="serial")["schedule"])  # a serial run reads none


def test_runs_that_differ_in_an_option_that_they_do_not_read_are_repeats():
    frame = store.frame(
        [
            run(1000.0, num_microbatches=2),
            run(1000.0, num_microbatches=8, repeat=1),
            parallel(1800.0, 2, num_microbatches=2),
            parallel(1800.0, 2, num_microbatches=8, repeat=1),
        ]
    )
    assert list(scaling.strong_scaling(frame)["num_repeats"]) == [2, 2]


def test_no_ratio_is_taken_between_networks_that_differ_in_their_widths_alone():
    frame = store.frame(
        run(rate, model="cnn", channels=channels, **how)
        for channels, rate in (((4, 8), 1000.0), ((8, 4), 500.0))
        for how in ({}, {"strategy": "gradient_averaging", "num_ranks": 2})
    )
    table = scaling.strong_scaling(frame)
    assert list(table["channels"]) == [(4, 8), (8, 4), (4, 8), (8, 4)]
    assert list(table["speedup"]) == [1.0] * 4


def test_strong_scaling_of_amdahls_law():
    records = []
    for repeat, drift in enumerate([1.0, 0.7, 1.3]):
        records.append(run(1000 * drift, repeat=repeat))
        records += [
            parallel(1000 * drift * scaling.amdahl_speedup(0.1, p), p, repeat=repeat)
            for p in (2, 4, 8)
        ]
    table = scaling.strong_scaling(store.frame(records))
    row = row_of(table, num_ranks=4)
    assert row["speedup"] == pytest.approx(1 / 0.325)
    assert row["efficiency"] == pytest.approx(1 / 1.3)
    assert row["karp_flatt"] == pytest.approx(0.1)
    assert row["num_repeats"] == 3
    assert row_of(table, strategy="serial")["speedup"] == 1
    assert list(table["oversubscribed"]) == [False, False, False, True]


def test_the_fastest_matching_serial_run_is_the_base():
    records = [run(500, data_loading="loader"), run(1000), run(4000, threads=4), parallel(2000, 2)]
    frame = store.frame(records)
    assert row_of(scaling.strong_scaling(frame), num_ranks=2)["speedup"] == 2
    against_all = scaling.strong_scaling(frame, base={"strategy": "serial"})
    assert row_of(against_all, num_ranks=2)["speedup"] == 0.5


def test_threads_count_as_workers():
    records = [run(1000), run(1800, threads=2), parallel(3000, 2, threads=2)]
    table = scaling.strong_scaling(store.frame(records))
    row = row_of(table, num_ranks=2)
    assert (row["num_workers"], row["efficiency"]) == (4, 0.75)
    by_two = scaling.strong_scaling(
        store.frame(records), base={"strategy": "serial", "threads_per_rank": 2}
    )
    assert row_of(by_two, num_ranks=2)["num_workers"] == 2


def test_each_batch_size_and_model_has_a_base_of_its_own():
    records = [
        run(1000),
        parallel(1500, 2),
        run(100, model="cnn"),
        parallel(190, 2, model="cnn"),
        run(4000, global_batch_size=512),
        parallel(4400, 2, global_batch_size=512),
    ]
    table = scaling.strong_scaling(store.frame(records))
    found = {
        (r.model, r.global_batch_size): r.speedup
        for r in table[table["num_ranks"] == 2].itertuples()
    }
    assert found == pytest.approx({("mlp", 128): 1.5, ("cnn", 128): 1.9, ("mlp", 512): 1.1})


def test_all_reduces_are_told_apart():
    records = [run(1000), parallel(1800, 2), parallel(1200, 2, allreduce="mpi")]
    table = scaling.strong_scaling(store.frame(records))
    assert row_of(table, allreduce="mpi")["speedup"] == 1.2
    assert row_of(table, allreduce="shared", num_ranks=2)["speedup"] == 1.8


def test_scaling_without_a_base_says_so():
    with pytest.raises(ValueError, match=r"strategy': 'serial'.*strategy is gradient_averaging"):
        scaling.strong_scaling(store.frame([parallel(1000, 2)]))
    with pytest.raises(ValueError, match="no training runs"):
        scaling.strong_scaling(store.frame([]))


def test_weak_scaling_compares_at_the_same_local_batch():
    records = [
        run(1000, global_batch_size=64),
        run(9000, global_batch_size=128),
        parallel(1900, 2, global_batch_size=128),
        parallel(3000, 4, global_batch_size=256),
    ]
    table = scaling.weak_scaling(store.frame(records))
    row = row_of(table, num_ranks=4)
    assert (row["local_batch_size"], row["speedup"], row["efficiency"]) == (64, 3, 0.75)
    assert row_of(table, num_ranks=2)["efficiency"] == pytest.approx(0.95)


def test_weak_scaling_has_the_efficiency_over_a_serial_run_of_the_whole_batch_too():
    records = [
        run(1000, global_batch_size=64),
        run(1500, global_batch_size=128),
        run(9, global_batch_size=128, model="cnn"),
        run(600, global_batch_size=128, threads=4),
        parallel(1900, 2, global_batch_size=128),
        parallel(1500, 2, global_batch_size=128, allreduce="mpi"),
        parallel(3000, 4, global_batch_size=256),
    ]
    records = [replace(r, repeat=k) for k in range(6) for r in records]
    table = scaling.weak_scaling(store.frame(records))
    assert table["local_batch_size"].unique().tolist() == [64], "bases of whole batches have no row"
    row = row_of(table, num_ranks=2, allreduce="shared")
    assert row["efficiency"] == pytest.approx(0.95)
    assert row["same_batch_efficiency"] == pytest.approx(1900 / 1500 / 2)
    assert row["same_batch_ci_low"] == row["same_batch_high"] == row["same_batch_efficiency"]
    assert row_of(table, allreduce="mpi")["same_batch_efficiency"] == pytest.approx(0.5)
    assert np.isnan(row_of(table, num_ranks=4)["same_batch_efficiency"])
    assert row_of(table, num_ranks=1)["same_batch_efficiency"] == 1


def test_time_split_is_by_training_time_and_leaves_the_rest_to_other():
    records = [
        run(split=(0.5, 0.2, 0.1), repeat=0),
        run(split=(0.7, 0.2, 0.1), repeat=1),
        run(split=(0.6, 0.2, 0.1), repeat=2),
        parallel(500, 2, allreduce="mpi", split=(0.6, 0.3, None)),
    ]
    table = scaling.time_split(store.frame(records))
    serial, mpi = row_of(table, strategy="serial"), row_of(table, allreduce="mpi")
    assert list(serial[["compute", "communicate", "wait", "other"]]) == pytest.approx(
        [0.6, 0.2, 0.1, 0.1]
    )
    assert list(mpi[["compute", "communicate", "other"]]) == pytest.approx([0.6, 0.3, 0.1])
    assert np.isnan(mpi["wait"])


def test_time_split_stands_a_frame_without_any_wait():
    table = scaling.time_split(store.frame([run(split=(0.6, 0.4, None))]))
    assert table.iloc[0]["other"] == pytest.approx(0)


def test_seconds_per_epoch_counts_steps():
    hundred_steps = 100 * 128 / 2000
    assert scaling.seconds_per_epoch(store.frame([run(2000.0)])).iloc[0] == pytest.approx(
        hundred_steps * 94 / 100
    )


def test_accuracy_has_the_range_over_seeds():
    records = [run(seed=s, accuracy=a) for s, a in enumerate([0.9, 0.8, 0.95])] + [
        run(seed=0, accuracy=0.9, repeat=1)
    ]
    row = scaling.accuracy(store.frame(records), ["strategy"]).iloc[0]
    assert (row["median"], row["min"], row["max"]) == (0.9, 0.8, 0.95)
    assert (row["num_seeds"], row["num_runs"], row["num_diverged"]) == (3, 4, 0)


def allreduce(seconds, *, num_elements=1000, dtype="float32", way="shared"):
    return AllreduceRecord(
        allreduce=way,
        num_ranks=2,
        num_elements=num_elements,
        dtype=dtype,
        seconds=seconds,
        provenance={"host": "here"},
        oversubscribed=False,
    )


def test_bandwidth_is_bytes_by_median_seconds():
    records = [allreduce([2e-6, 1e-6, 9e-6]), allreduce([4e-6], dtype="float64"), run()]
    table = scaling.bandwidth(store.frame(records))
    single = row_of(table, dtype="float32")
    assert (single["seconds"], single["num_repeats"], single["num_bytes"]) == (2e-6, 3, 4000)
    assert single["bandwidth"] == pytest.approx(2e9)
    assert row_of(table, dtype="float64")["bandwidth"] == pytest.approx(2e9)
    with pytest.raises(ValueError, match="no all-reduces"):
        scaling.bandwidth(store.frame([run()]))


def test_fit_recovers_latency_and_bandwidth():
    num_bytes = np.array([40, 400, 4e3, 4e4, 4e5, 4e6, 4e7])
    fit = scaling.fit_alpha_beta(num_bytes, 5e-6 + num_bytes / 8e9)
    assert (fit.alpha, fit.bandwidth) == pytest.approx((5e-6, 8e9))
    assert fit.seconds(8e9) == pytest.approx(1 + 5e-6)
    noise = np.random.default_rng(0).normal(1, 0.05, num_bytes.size)
    noisy = scaling.fit_alpha_beta(num_bytes, (5e-6 + num_bytes / 8e9) * noise)
    assert (noisy.alpha, noisy.bandwidth) == pytest.approx((5e-6, 8e9), rel=0.1)


def test_fit_is_never_negative():
    assert scaling.fit_alpha_beta([1, 2, 3], [1, 3, 5]).alpha == 0
    falling = scaling.fit_alpha_beta([1, 2, 3], [3, 2, 1])
    assert falling.beta == 0 and falling.bandwidth == float("inf")


@pytest.mark.parametrize(
    ("num_bytes", "seconds"), [([1, 1], [1, 1]), ([1, 2], [1]), ([1, 2], [1, 0])]
)
def test_fit_refuses_what_it_cannot_fit(num_bytes, seconds):
    with pytest.raises(ValueError, match="times"):
        scaling.fit_alpha_beta(num_bytes, seconds)


def test_analysis_needs_no_engine_side_library():
    code = (
        "import sys; from nnpar_lib.analysis import scaling; from nnpar_lib.analysis.figures import"
        " plots; print([m for m in ('torch', 'mpi4py', 'ipyparallel') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
