"""The measurements of a GPU: what is planned, that a CPU can do the same in small, and what becomes
of the records."""

import dataclasses

import pandas as pd
import pytest

from nnpar_lib.analysis.claims import gpu
from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import MODELS
from nnpar_lib.experiments import gpu as gpu_report
from nnpar_lib.experiments import measuring
from nnpar_lib.experiments.gpu import FULL
from nnpar_lib.experiments.measuring import Part
from nnpar_lib.launch.engines import Engines
from nnpar_lib.records import store
from nnpar_lib.records.kinds import ComparisonRecord, SweepRecord
from nnpar_lib.trainers.tasks import equality, sweep_timing

GPU_MACHINE = dataclasses.replace(FULL, num_cores=16, num_gpus=2)
TINY = gpu_report.Sizes(
    examples={"cpu": dict.fromkeys(MODELS, 600)},
    models=("mlp",),
    graph_batch_sizes=(64,),
    rank_counts=(1, 2),
    num_trials=3,
    num_trial_steps=6,
    num_gpus=2,
)


def parts(device="cuda", sizes=GPU_MACHINE):
    return {part.experiment: part for part in gpu_report.plan(device, "digits", sizes)}


def labels(part):
    return [list(group) for group in part.groups]


def test_everything_is_planned_for_every_model():
    plan = parts()
    assert list(plan) == [
        "gpu-same",
        "gpu-graph",
        "gpu-sweep",
        "gpu-ranks",
        "gpu-pipeline",
        "gpu-cores",
        "gpu-roofline",
        "gpu-several",
    ]
    for part in plan.values():
        models = {config.model for group in part.groups for config in group.values()}
        expected = {"gpu-same": {"mlp", "cnn"}, "gpu-sweep": {"mlp"}}.get(
            part.experiment, set(MODELS)
        )
        assert models == expected
        assert all(
            config.num_ranks <= part.num_ranks for group in part.groups for config in group.values()
        )
    assert "gpu-several" not in parts(sizes=FULL)


def test_all_of_it_runs_on_the_gpu_but_what_it_is_compared_with():
    for part in parts().values():
        for group in part.groups:
            for label, config in group.items():
                assert config.device == ("cpu" if label.startswith("cores") else "cuda")
                if part.experiment in ("gpu-graph", "gpu-several"):
                    assert config.record == ("graph" in label)


def test_each_group_has_the_run_that_the_others_are_compared_with():
    for part in parts().values():
        for group in labels(part):
            assert part.experiment not in gpu.BASES or gpu.BASES[part.experiment] in group


def test_the_gpu_is_compared_with_all_cores_at_several_batch_sizes():
    cores = parts()["gpu-cores"]
    assert {(group["gpu"].model, group["gpu"].global_batch_size) for group in cores.groups} == {
        (model, size) for model in MODELS for size in FULL.batch_sizes
    }
    for group in cores.groups:
        for label in ("cores, threads", "cores, ranks", "cores, ranks, bf16"):
            assert 16 - 8 < group[label].num_ranks * group[label].num_threads <= 16


def test_64_trials_differ_in_learning_rate_and_seed_only():
    (trials,) = parts()["gpu-sweep"].groups
    configs = list(trials.values())
    assert len(configs) == 64
    assert {config.replace(lr=0.1, seed=0) for config in configs} == {
        configs[0].replace(lr=0.1, seed=0)
    }
    assert len({config.lr for config in configs}) == len({config.seed for config in configs}) == 64


def test_no_run_is_long():
    configs = [
        config for part in parts().values() for group in part.groups for config in group.values()
    ]
    assert max(config.num_steps for config in configs if config.num_steps) <= FULL.max_steps
    on_cores = [config for config in configs if config.device == "cpu"]
    assert max(config.num_steps * config.global_batch_size for config in on_cores) <= 60_000


def test_what_there_is_no_time_for_is_named_and_nothing_started(tmp_path):
    missing = measuring.measure(
        gpu_report.plan("cuda", "digits", GPU_MACHINE), tmp_path / "gpu.jsonl", seconds=-1
    )
    assert len(missing) == 8
    assert missing[1] == "6 of 6 groups of gpu-graph: no time"
    assert not (tmp_path / "gpu.jsonl").exists()


@pytest.mark.slow
def test_a_group_that_fails_is_shown_at_once_and_takes_no_other_with_it(tmp_path, capsys):
    out = tmp_path / "gpu.jsonl"
    plan = parts("cpu", TINY)
    several = plan["gpu-several"]
    unknown = RunConfig(checkpoint=str(tmp_path / "missing" / "run"))
    broken = dataclasses.replace(several, groups=({"no folder": unknown}, *several.groups))
    empty = Part(experiment="empty", num_ranks=1, measure=Engines.time_trials, groups=({},))
    missing = measuring.measure([empty, broken], out, seconds=120)
    assert len(missing) == 2
    assert missing[0].startswith("group 1 of empty, which failed: rank 0 raised IndexError")
    assert missing[1].startswith("group 1 of gpu-several, which failed: ")
    captured = capsys.readouterr()
    assert captured.err.count("Traceback (most recent call last)") >= 2
    assert "IndexError" in captured.err
    frame = store.frame(store.load(out))
    assert len(frame) == 4 * several.num_repeats
    assert list(gpu.speeds(frame)["label"]) == ["1 rank", "mpi", "gloo", "gloo, graph"]


def test_no_group_begins_that_is_not_expected_to_end_in_time():
    group = {"one": RunConfig()}
    first = Part(experiment="first", num_ranks=1, groups=(group, group), num_repeats=2)
    second = dataclasses.replace(first, experiment="second")
    budget = measuring.Budget(100)
    assert budget.allows(first, group)
    budget.note(first, group, seconds=80)
    assert budget.allows(first, group) and budget.allows(second, group)
    budget.note(first, group, seconds=120)
    assert not budget.allows(first, group) and not budget.allows(second, group)
    budget.note(second, group, seconds=10)
    assert budget.allows(second, group) and not budget.allows(first, group)
    assert not measuring.Budget(-1).allows(first, group)


@pytest.mark.slow
def test_a_cpu_measures_trials_and_differences_in_small():
    plan = parts("cpu", TINY)
    trials = [config.to_dict() for config in plan["gpu-sweep"].groups[0].values()]
    same = [
        config.to_dict() for config in plan["gpu-same"].groups[0].values() if config.num_ranks == 1
    ]
    frame = store.frame(
        [
            *(SweepRecord(**values) for values in sweep_timing.measure(trials, "gpu-sweep")),
            *(ComparisonRecord(**values) for values in equality.measure(same, "gpu-same")),
        ]
    )
    assert frame["kind"].value_counts().to_dict() == {"sweep": 6, "comparison": 2}
    assert gpu.differences(frame)["weights"].max() < 1e-12
    sweeps = gpu.sweeps(frame).set_index("label")
    assert sweeps.loc[gpu.TOGETHER, "worst_loss"] < 1e-5 and sweeps.loc[gpu.ALONE, "speedup"] == 1
    assert "trials/h" in gpu.text(frame)
    with pytest.raises(ValueError, match="none of these records was made on a GPU"):
        gpu.machine(frame)


def test_ratios_are_those_of_runs_at_the_same_batch_size():
    rows = [
        {
            "kind": "run",
            "experiment": "gpu-graph",
            "model": "mlp",
            "global_batch_size": size,
            "label": label,
            "repeat": repeat,
            "samples_per_second": rate,
        }
        for size, factor in ((64, 5.0), (1024, 2.0))
        for repeat in range(3)
        for label, rate in (("eager", 100.0 * size), ("graph", 100.0 * size * factor))
    ]
    cut_off = {**rows[0], "model": "cnn", "label": "graph"}
    speedups = gpu.speeds(pd.DataFrame([*rows, cut_off])).set_index(["batch_size", "label"])[
        "speedup"
    ]
    assert speedups.to_dict() == {
        (64, "eager"): 1,
        (64, "graph"): 5,
        (1024, "eager"): 1,
        (1024, "graph"): 2,
    }


def test_a_recorded_step_is_compared_with_what_a_roofline_allows():
    common = {
        "model": "cnn",
        "precision": "float32",
        "memory_format": "contiguous",
        "convolution": "torch",
    }
    block = {"flops": 6e9, "bytes": 1e6, "seconds": 0.1}
    roof = {
        **common,
        "kind": "roofline",
        "experiment": "gpu-roofline",
        "batch_size": 1024,
        "blocks": [block, block],
        "ceiling_flop_per_second": 1e12,
        "bytes_per_second": 1e12,
    }
    runs = [
        {
            **common,
            "kind": "run",
            "experiment": "gpu-graph",
            "global_batch_size": size,
            "label": label,
            "repeat": 0,
            "samples_per_second": rate,
        }
        for size, label, rate in (
            (1024, "graph", 51_200.0),
            (1024, "eager", 1.0),
            (64, "graph", 1.0),
            (64, "eager", 1.0),
        )
    ]
    ceiling = gpu.ceilings(pd.DataFrame([roof, *runs])).iloc[0]
    assert (ceiling["allowed_ms"], ceiling["step_ms"], ceiling["times"]) == pytest.approx(
        (12, 20, 5 / 3)
    )


def test_no_records_make_no_tables():
    assert gpu.text(pd.DataFrame()) == ""
    assert gpu.tables(pd.DataFrame()) == {}
