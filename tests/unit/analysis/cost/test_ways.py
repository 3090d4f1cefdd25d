"""All ways beside each other and larger machines, from tables whose answer is known."""

import pandas as pd
import pytest

from nnpar_lib.analysis.cost import predictions, ways
from nnpar_lib.analysis.cost.cost_model import Block, Machine, Model
from nnpar_lib.analysis.scaling import AlphaBeta

MESSAGE = AlphaBeta(1e-6, 1e-9)


def model(parameter_bytes):
    """Return a model of one block that needs 1 ms an example."""
    block = Block(
        forward=AlphaBeta(1e-5, 4e-4),
        backward=AlphaBeta(3e-5, 6e-4),
        parameter_bytes=parameter_bytes,
        output_bytes_per_example=4,
    )
    return Model(blocks=[block])


def test_the_fastest_way_of_each_problem_has_a_core_a_rank():
    rows = [
        (20, 8, "serial", 1.0, False),
        (20, 8, "tensor", 1.5, False),
        (20, 8, "hybrid", 9.0, True),
        (10, 8, "serial", 1.0, False),
        (10, 8, "tensor", 0.5, False),
    ]
    columns = ["num_parameters", "global_batch_size", "label", "speedup", "oversubscribed"]
    best = ways.fastest(pd.DataFrame(rows, columns=columns))
    assert best[["num_parameters", "label"]].to_numpy().tolist() == [[20, "tensor"], [10, "serial"]]


def test_errors_are_those_of_configurations_with_a_core_a_rank():
    rows = [("serial", -0.1, False), ("serial", 0.3, False), ("tensor", 0.2, False)]
    rows.append(("tensor", 5.0, True))
    table = pd.DataFrame(rows, columns=["strategy", "error", "oversubscribed"])
    errors = predictions.errors(table)
    assert errors.loc["serial"].tolist() == pytest.approx([0.2, 0.3, 2])
    assert errors.loc["tensor"].tolist() == pytest.approx([0.2, 0.2, 1])
    assert errors.loc["all"].tolist() == pytest.approx([0.2, 0.3, 3])
    assert predictions.median_error(table) == errors.loc["all", "median"]


def test_larger_machines_compute_as_the_model_with_the_most_weights():
    large = model(4000)
    machines = ways.larger_machines(
        {("small",): model(400), ("large",): large}, Machine(message=MESSAGE, allreduces={})
    )
    assert machines["cores"].flops_per_second == predictions.flops_per_second(large)
    assert machines["gpus"] == predictions.V100


def test_the_largest_numbers_of_ranks_are_those_of_the_whole_tables():
    machines = {"gpus": predictions.V100}
    whole = ways.larger_speedups(machines)["gpus"]
    largest = ways.largest_speedups(machines)
    assert sorted(set(largest["num_ranks"])) == [8, 16]
    assert set(largest["machine"]) == {predictions.V100.name}
    rows = whole[whole["num_ranks"] == 16]
    assert largest.query("num_ranks == 16")["speedup"].tolist() == rows["speedup"].tolist()
