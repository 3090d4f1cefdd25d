"""Predictions against what can be worked out by hand, and the way from records to them."""

from dataclasses import replace

import pytest

from nnpar_lib.analysis.cost import calibration, comparison, cost_model, predictions
from nnpar_lib.analysis.cost.cost_model import Block, Machine, Model
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.config import RunConfig
from nnpar_lib.records import store
from nnpar_lib.records.kinds import (
    BY_INPUT,
    BY_OUTPUT,
    AllreduceRecord,
    MessageRecord,
    ProfileRecord,
)
from nnpar_lib.schedules import ideal_bubble_fraction
from tests.conftest import ROOT, run_python

MESSAGE = AlphaBeta(1e-3, 1e-6)
MACHINE = Machine(message=MESSAGE, allreduces={"mpi": MESSAGE})
FREE = Machine(message=AlphaBeta(0, 0), allreduces={})
DEEP = RunConfig(hidden=(8, 8), global_batch_size=12, dataset="mnist")
HERE = {"host": "here", "num_cores": 2}


def block(**changes):
    return Block(
        **{
            "forward": AlphaBeta(0, 1e-3),
            "backward": AlphaBeta(0, 2e-3),
            "parameter_bytes": 1000,
            "output_bytes_per_example": 100,
            "layer_bytes_per_example": 100,
            **changes,
        }
    )


def seconds(blocks, machine=MACHINE, **changes):
    return cost_model.step_seconds(DEEP.replace(**changes), Model(blocks=blocks), machine)


def test_architectures_differ_in_what_the_model_reads_and_in_nothing_else():
    resnets = [
        RunConfig(model="resnet18", width=width, stem=stem)
        for width in (8, 64)
        for stem in ("small", "imagenet")
    ]
    assert len({cost_model.architecture(config) for config in resnets}) == 4
    mlp = RunConfig()
    assert cost_model.architecture(mlp) == cost_model.architecture(
        mlp.replace(width=8, kernel_size=5, channels=(1,), hidden=(256, 128), seed=1, lr=0.5)
    )


def test_an_all_reduce_costs_what_the_formula_says():
    assert cost_model.allreduce_seconds(MESSAGE, 4000, 1) == 0
    assert cost_model.allreduce_seconds(MESSAGE, 4000, 4) == pytest.approx(6e-3 + 6e-3)


def test_data_parallelism_divides_the_examples_and_pays_an_all_reduce():
    blocks = [block(), block(forward=AlphaBeta(5e-3, 1e-3))]
    assert seconds(blocks, global_batch_size=10) == pytest.approx(2 * 30e-3 + 5e-3)
    found = seconds(
        blocks, global_batch_size=10, strategy="gradient_averaging", num_ranks=2, allreduce="mpi"
    )
    assert found == pytest.approx(2 * 15e-3 + 5e-3 + 2e-3 + 2e-3)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_pipeline_with_free_messages_has_the_ideal_bubble(schedule):
    blocks = [block()] * 3
    found = seconds(
        blocks, FREE, strategy="pipeline", num_ranks=3, schedule=schedule, num_microbatches=6
    )
    assert found * 3 * (1 - ideal_bubble_fraction(3, 6)) == pytest.approx(seconds(blocks))


def test_zero_bubble_fills_the_wait_with_the_gradients_of_weights():
    common = {"num_ranks": 2, "num_microbatches": 4, "strategy": "pipeline"}
    blocks = [block(), block()]  # 3 examples a micro-batch: 3 ms forward, 6 ms backward
    whole = seconds(blocks, FREE, schedule="1f1b", **common)
    split = seconds(blocks, FREE, schedule="zero_bubble", **common)
    assert whole == pytest.approx(36e-3 + 9e-3)
    assert split == pytest.approx(36e-3 + 3e-3)  # the first rank waits for one forward pass


def test_recomputation_costs_a_forward_pass_and_keeps_the_inputs_of_segments():
    blocks = [block()] * 9  # 3 segments of 3; 12 examples of 100 bytes a block
    plain = seconds(blocks, FREE)
    assert seconds(blocks, FREE, recompute=True) == pytest.approx(plain + 9 * 12e-3)
    model = Model(blocks=blocks)
    whole = slice(0, 9)
    recomputed = DEEP.replace(recompute=True)
    assert cost_model.activation_bytes(DEEP, model, whole, 12) == 9 * 1200
    assert cost_model.activation_bytes(recomputed, model, whole, 12) == (2 + 3) * 1200
    pipeline = recomputed.replace(strategy="pipeline")
    assert cost_model.activation_bytes(pipeline, model, slice(3, 6), 12, 4) == (4 + 3) * 1200
    stages = {"strategy": "pipeline", "num_ranks": 2, "schedule": "gpipe"}
    equal = [block()] * 2
    assert seconds(equal, FREE, recompute=True, **stages) == pytest.approx(
        seconds(equal, FREE, **stages) * 4 / 3
    )


def test_a_pipeline_pays_for_the_activations_of_its_boundaries():
    blocks = [block(), block(output_bytes_per_example=500), block(output_bytes_per_example=10**9)]
    found = seconds(
        blocks,
        strategy="pipeline",
        num_ranks=2,
        num_microbatches=1,
        global_batch_size=4,
        balance="2",
    )
    assert found == pytest.approx(36e-3 + 2 * (1e-3 + 2e-3))


def test_a_grid_sums_the_gradients_of_its_fullest_stage_over_the_pipelines():
    blocks = [block(), block(), block(parameter_bytes=5000)]
    common = {
        "strategy": "hybrid",
        "num_ranks": 4,
        "pipeline_size": 2,
        "num_microbatches": 1,
        "balance": "2",
    }
    alone = seconds(
        blocks,
        strategy="pipeline",
        num_ranks=2,
        num_microbatches=1,
        balance="2",
        global_batch_size=6,
    )
    assert seconds(blocks, **common) - alone == pytest.approx(2e-3 + 5e-3)


def test_tensor_parallelism_shares_the_features_of_pairs_and_sums_them():
    blocks = [block(split=BY_OUTPUT), block(split=BY_INPUT, layer_bytes_per_example=500), block()]
    found = seconds(blocks, strategy="tensor", num_ranks=2, global_batch_size=4)
    assert found == pytest.approx(2 * 4 / 2 * 3e-3 + 4 * 3e-3 + (2e-3 + 2e-3))


def test_bytes_are_counted_once_each_way():
    model = Model(
        blocks=[
            block(split=BY_OUTPUT),
            block(split=BY_INPUT),
            block(split=BY_OUTPUT),
            block(split=BY_INPUT),
        ]
    )
    config = DEEP.replace(hidden=(8, 8, 8))
    found = {
        name: cost_model.exchanged_bytes(config.replace(strategy=name, num_ranks=2), model)
        for name in ("gradient_averaging", "pipeline", "tensor", "weight_averaging")
    }
    assert found == {
        "gradient_averaging": 4000,
        "pipeline": 2 * 12 * 100,
        "tensor": 12 * 300,
        "weight_averaging": 0,
    }


def test_the_best_cut_evens_out_the_seconds():
    model = Model(blocks=[block(forward=AlphaBeta(0, 9e-3)), block(), block()])
    assert cost_model.best_balance(DEEP.replace(strategy="pipeline", num_ranks=2), model) == "1"


def test_a_strategy_without_a_model_is_refused():
    with pytest.raises(ValueError, match="'torch_ddp' has no cost model; choose from serial"):
        seconds([block()], strategy="torch_ddp", num_ranks=2)


def test_the_crossover_is_where_the_faster_one_changes():
    assert (
        cost_model.crossover_batch(lambda batch: 10 + batch, lambda batch: 2 * batch, range(1, 30))
        == 11
    )
    assert cost_model.crossover_batch(lambda batch: 1, lambda batch: 2, range(1, 30)) is None


def profile(batch_size, num_ranks=1):
    forward, backward = [1e-3 + batch_size * 1e-5] * 3, [2e-3 + batch_size * 2e-5] * 3
    return ProfileRecord(
        model="mlp",
        num_ranks=num_ranks,
        batch_size=batch_size,
        forward_seconds=forward,
        backward_seconds=backward,
        load_seconds=1e-4 + batch_size * 1e-6,
        update_seconds=3e-3,
        clear_seconds=0.0,
        num_parameters=[10, 20, 30],
        num_output_elements=[8, 8, 10],
        num_layer_elements=[8, 8, 10],
        splits=[BY_OUTPUT, BY_INPUT, "whole"],
        config=DEEP.to_dict(),
        provenance=HERE,
        oversubscribed=False,
    )


def calibrated():
    messages = [
        MessageRecord(
            num_bytes=n, seconds=[MESSAGE.seconds(n)] * 2, provenance=HERE, oversubscribed=False
        )
        for n in (100, 10_000)
    ]
    sweep = [
        AllreduceRecord(
            allreduce="mpi",
            num_ranks=2,
            num_elements=n,
            dtype="float32",
            oversubscribed=False,
            seconds=[cost_model.allreduce_seconds(MESSAGE, 4 * n, 2)],
            provenance=HERE,
        )
        for n in (10, 10_000)
    ]
    records = [*messages, *sweep, profile(8), profile(64)]
    return calibration.machine(records), calibration.models(records, 1)


def test_calibration_finds_the_numbers_that_the_measurements_were_made_of():
    machine, models = calibrated()
    model = models[cost_model.architecture(DEEP)]
    for found in (machine.message, machine.allreduces["mpi"]):
        assert (found.alpha, found.beta) == pytest.approx((MESSAGE.alpha, MESSAGE.beta))
    assert model.passes(100) == pytest.approx(3 * (3e-3 + 3e-3))
    assert model.load.seconds(100) == pytest.approx(2e-4)
    assert model.update.seconds(model.parameter_bytes) == pytest.approx(3e-3)


def test_a_missing_profile_is_named():
    with pytest.raises(ValueError, match="no profile on 4 ranks"):
        calibration.models([profile(8)], 4)


def test_a_prediction_stands_beside_each_measurement():
    machine, models = calibrated()
    run = next(one for one in store.load(ROOT / "report/results/bench.jsonl") if one.kind == "run")
    wanted = cost_model.step_seconds(DEEP, models[cost_model.architecture(DEEP)], machine)
    runs = [
        replace(
            run,
            config=DEEP.to_dict(),
            train_seconds=factor * wanted,
            num_steps=1,
            strategy="serial",
            threads_per_rank=1,
        )
        for factor in (0.5, 0.8, 2.0)
    ]
    table = predictions.compare(runs, models, machine)
    assert table["error"].tolist() == pytest.approx([0.25])
    assert predictions.median_error(table) == pytest.approx(0.25)


def test_speedups_are_over_the_best_serial_run_and_goals_are_timed():
    run = next(one for one in store.load(ROOT / "report/results/bench.jsonl") if one.kind == "run")
    history = [
        {"train_seconds": 2.0, "test_accuracy": 0.5},
        {"train_seconds": 4.0, "test_accuracy": 0.9},
    ]

    def made(label, strategy, rate, cores, accuracy):
        return replace(
            run,
            label=label,
            strategy=strategy,
            samples_per_second=rate,
            threads_per_rank=1,
            repeat=0,
            num_ranks=cores,
            final_test_accuracy=accuracy,
            history=history,
            config=DEEP.to_dict(),
        )

    frame = store.frame(
        [
            made(comparison.SERIAL, "serial", 100.0, 1, 0.9),
            made("two", "serial", 150.0, 2, 0.9),
            made("parallel", "tensor", 180.0, 2, 0.8),
        ]
    )
    speed = comparison.speed(frame).set_index("label")
    assert speed.loc["parallel", ["speedup", "efficiency"]].tolist() == pytest.approx([1.2, 0.9])
    learnt = comparison.accuracy(frame[frame["label"] != "two"], {run.model: 0.8}).set_index(
        "label"
    )
    assert learnt.loc["parallel", ["seconds_to_goal", "accuracy_lost"]].tolist() == pytest.approx(
        [4.0, 0.1]
    )


def test_larger_machines_are_predicted_with_all_that_can_run_on_them():
    table = predictions.predict(predictions.V100, num_ranks=8, global_batch_size=64, num_layers=16)
    assert table["strategy"].tolist() == ["gradient_averaging", "pipeline", "tensor", "hybrid"]
    assert (table["speedup"] < 8).all() and (table["bubble"] > 0).tolist() == [
        False,
        True,
        False,
        True,
    ]
    memory = table.set_index("strategy")["memory_bytes"]
    assert memory["pipeline"] < memory["tensor"] < memory["gradient_averaging"]
    assert memory["pipeline"] < memory["hybrid"] < memory["gradient_averaging"]
    few = predictions.predict(predictions.V100, num_ranks=8, global_batch_size=4, num_layers=4)
    assert few["strategy"].tolist() == ["tensor", "hybrid"]


def test_a_model_on_a_gpu_costs_its_operations_and_a_fixed_time_a_pass():
    config = RunConfig(model="cnn", channels=(2,), hidden=(3,), dataset="mnist")
    blocks = [
        block(
            parameter_bytes=4 * 20, layer_bytes_per_example=4 * 2 * 50
        ),  # 20 weights at 50 positions
        block(parameter_bytes=4 * 30, layer_bytes_per_example=4 * 3),
        block(parameter_bytes=4 * 40, layer_bytes_per_example=4 * 10),
    ]
    gpu = replace(predictions.T4, flops_per_second=1e6, fixed_seconds=1.0)
    found = predictions.moved(config, Model(blocks=blocks), gpu)
    assert found.passes(100) == pytest.approx(6 * 1.0 + 100 * 3 * 2 * (20 * 50 + 30 + 40) / 1e6)
    assert cost_model.step_seconds(config, found, FREE) == pytest.approx(found.passes(128) + 2.0)
    with pytest.raises(ValueError, match="'resnet18' are not known here"):
        predictions.moved(RunConfig(model="resnet18"), Model(blocks=blocks), gpu)


@pytest.mark.slow
def test_the_guide_to_other_machines_holds_what_the_cost_model_says():
    process = run_python("cluster/predict.py")
    assert process.returncode == 0, process.stderr
    guide = (ROOT / "cluster" / "README.md").read_text()
    assert process.stdout.strip() in guide, "run `python report/readme.py`"


@pytest.mark.parametrize(
    ("price", "complaint"),
    [("8 cores=cheap", "is no MACHINE=PRICE"), ("9 cores=1", "there is no machine '9 cores'")],
)
def test_a_wrong_price_is_refused_in_one_line(price, complaint):
    process = run_python("cluster/predict.py", "--price-per-hour", price)
    assert (
        process.returncode == 2 and complaint in process.stderr and process.stderr.count("\n") == 1
    )


@pytest.mark.slow
def test_a_price_an_hour_becomes_a_cost():
    process = run_python("cluster/predict.py", "--price-per-hour", "8 cores=3600")
    row = next(line for line in process.stdout.splitlines() if line.startswith("| 8 cores"))
    seconds, cost = (float(row.split("|")[column]) for column in (4, 6))
    assert cost == pytest.approx(
        100 * seconds, rel=0.05
    )  # an epoch of the cnn, a hundred times, at 1 a second
