"""What surveys say of machines: no ratio between two of them, and no winner inside the noise."""

import pandas as pd
import pytest

from nnpar_lib.analysis.claims import machine_numbers, machines

DEFAULTS = {
    "model": "mlp",
    "global_batch_size": 128,
    "num_ranks": 1,
    "threads_per_rank": 1,
    "num_cores": 1,
    "device": "cpu",
    "precision": "float32",
    "strategy": "serial",
    "way": "serial",
    "label": machines.ALONE,
}
SHARED = {"way": machines.SHARED, "strategy": "gradient_averaging", "label": "2 ranks, shared"}
DDP = {"way": machines.DDP, "strategy": "torch_ddp", "label": "2 ranks, DDP"}
TWO = {"num_ranks": 2, "num_cores": 2}
THREADS = {"way": machines.THREADS, "label": "2 threads", "num_cores": 2, "threads_per_rank": 2}


def rows(machine, experiment, rates, **values):
    return [
        {**DEFAULTS, "machine": machine, "experiment": experiment, "repeat": repeat}
        | values
        | {"samples_per_second": rate}
        for repeat, rate in enumerate(rates)
    ]


@pytest.fixture
def frame():
    """Two machines, the second ten times as fast; its ranks are no faster than its noise."""
    steady = [100.0] * 6
    return pd.DataFrame(
        [
            *rows("slow", "weak-mlp-2", steady),
            *rows("slow", "weak-mlp-2", [180.0] * 6, **SHARED, **TWO),
            *rows("slow", "weak-mlp-2", [90.0] * 6, **DDP, **TWO),
            *rows("slow", "weak-mlp-2", [120.0] * 6, **THREADS),
            *rows("slow", "noise-mlp", steady),
            *rows("slow", "noise-mlp", [101.0, 99.0] * 3, label=machines.AGAIN),
            *rows("fast", "weak-mlp-2", [1000.0] * 6),
            *rows("fast", "weak-mlp-2", [1100.0] * 6, **SHARED, **TWO),
            *rows("fast", "weak-mlp-2", [1000.0] * 6, **THREADS),
            *rows("fast", "noise-mlp", [1000.0] * 6),
            *rows("fast", "noise-mlp", [800.0, 1200.0] * 3, label=machines.AGAIN),
        ]
    )


def test_ratios_are_within_a_machine(frame):
    table = machines.ratios(frame).set_index(["machine", "label"])["median"]
    assert table["slow", "2 ranks, shared"] == pytest.approx(1.8)
    assert table["fast", "2 ranks, shared"] == pytest.approx(1.1)
    efficiency = machines.over_cores(frame).set_index(["machine", "way"])["median"]
    assert efficiency["slow", machines.SHARED] == pytest.approx(0.9)


def test_a_winner_is_named_only_outside_the_noise_of_its_machine(frame):
    table = machines.ranks_against_threads(frame).set_index("machine")
    assert table["median"].to_dict() == pytest.approx({"slow": 1.5, "fast": 1.1})
    assert table["verdict"].to_dict() == {"slow": "ahead", "fast": "tie"}
    assert machines.against_ddp(frame)["verdict"].tolist() == ["ahead"]
    shown = machine_numbers.verdicts(frame)
    assert len(shown) == 3 and set(shown["num_repeats"]) == {6}


def test_sentences_name_the_machine_of_each_number(frame):
    sentences = machine_numbers.numbers(frame.assign(num_steps=1, **SPLIT), {})
    assert "90% of its rate on 2 cores of slow" in sentences["machines-cores-sentence"]
    assert "55% of its rate on 2 cores of fast" in sentences["machines-cores-sentence"]
    assert "2.0 times the rate of DDP on 2 ranks of slow" in sentences["machines-ddp-sentence"]
    assert sentences["machines-gpus-sentence"] == machine_numbers.NOT_MEASURED


SPLIT = {
    "allreduce": "shared",
    "train_seconds": 1.0,
    "communicate_seconds": 0.1,
    "wait_seconds": 0.1,
}


def test_a_gpu_is_compared_with_the_fastest_way_on_the_cores_of_its_machine():
    cores = {"threads_per_rank": 8, "num_cores": 8}
    frame = pd.DataFrame(
        [
            *rows("m", "gpu-cores", [100.0, 110.0], label="cores, threads", **cores),
            *rows("m", "gpu-cores", [200.0, 220.0], label="cores, ranks", **cores),
            *rows("m", "gpu-cores", [1000.0, 1320.0], label="gpu", device="cuda"),
            *rows("other", "gpu-cores", [900.0, 900.0], label="cores, ranks", **cores),
        ]
    )
    (row,) = machines.of_gpus(frame).to_dict("records")
    assert (row["machine"], row["base"], row["label"]) == ("m", "cores, ranks", "gpu")
    assert row["median"] == pytest.approx(5.5)
    times = machines.epochs(frame).set_index(["machine", "device"])["seconds"]
    assert times["m", "cpu"] == pytest.approx(60_000 / 210)
