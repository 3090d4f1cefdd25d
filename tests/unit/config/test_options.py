"""Each option describes itself once, and the lists of options are queries over what they say."""

import dataclasses

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.config import option as options
from nnpar_lib.config.computing import Computing
from nnpar_lib.config.network import Network
from nnpar_lib.config.option import METHOD, PROBLEM
from nnpar_lib.config.rules import check_given
from nnpar_lib.config.sections import (
    OPTIONS,
    SECTIONS,
    fixed_by_checkpoint,
    idle_in_serial_twin,
    passed_to_native,
    telling_runs_apart,
    with_role,
)
from nnpar_lib.config.spread import NATIVE_STRATEGIES, STRATEGIES

ROLES = (options.PROBLEM, options.METHOD, options.BOOKKEEPING)


@pytest.mark.parametrize("field", dataclasses.fields(RunConfig), ids=lambda field: field.name)
def test_every_option_has_a_text_a_role_and_readers_that_exist(field):
    option = options.describe(field)
    assert option.text
    assert option.role in ROLES, f"{field.name} has no role: is it problem, method or bookkeeping?"
    for reader, values in option.read_by.items():
        assert values
        assert set(values) <= set(OPTIONS[reader].choices)


def test_the_sections_hold_every_option_once_and_check_themselves():
    names = [field.name for section in SECTIONS for field in dataclasses.fields(section)]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(RunConfig))
    assert len(set(names)) == len(names)
    assert Network(hidden="8,8").hidden_widths == (8, 8)
    with pytest.raises(ValueError, match="hidden=\\(0,\\)"):
        Network(hidden=0)
    with pytest.raises(ValueError, match="precision='bf16'"):
        Computing(precision="bf16", dtype="float64")


def test_a_run_is_told_apart_by_all_but_what_is_kept_of_it():
    kept = {"checkpoint", "checkpoint_every", "stall_seconds"}
    assert set(telling_runs_apart()) == set(OPTIONS) - kept


def test_a_checkpoint_fixes_the_network_the_data_and_the_update_rule():
    always = {"model", "seed", "dataset", "global_batch_size", "optimizer", "dtype"}
    assert set(fixed_by_checkpoint(RunConfig())) == {*always, "hidden"}
    cnn = RunConfig(model="cnn")
    assert set(fixed_by_checkpoint(cnn)) == {*always, "hidden", "channels", "kernel_size"}
    resnet = RunConfig(model="resnet18")
    assert set(fixed_by_checkpoint(resnet)) == {*always, "stem", "width"}


def test_the_serial_twin_keeps_the_problem_and_what_changes_numbers():
    reset = set(idle_in_serial_twin())
    assert not reset & set(with_role(PROBLEM))
    numbers = {"precision", "memory_format", "convolution", "microbatch_size", "tune", "batch_norm"}
    assert set(with_role(METHOD)) - reset == numbers


def test_what_the_program_in_cpp_is_told():
    assert set(passed_to_native()) == {
        *("strategy", "num_ranks", "dataset", "global_batch_size", "num_epochs", "num_steps"),
        *("optimizer", "lr", "momentum", "lr_schedule", "allreduce", "average_every", "hidden"),
        *("seed", "binding", "num_threads", "num_warmup_steps", "evaluate_every"),
        "stall_seconds",
    }


@pytest.mark.parametrize(
    ("parameters", "given", "message"),
    [
        (
            {"strategy": "gradient_averaging", "num_microbatches": 8},
            "num_microbatches",
            "num_microbatches is not read by strategy gradient_averaging; leave it out, or choose"
            " pipeline, hybrid, torch_pipelining",
        ),
        (
            {"strategy": "pipeline", "schedule": "sequential"},
            "num_microbatches",
            "num_microbatches is not read by schedule sequential; leave it out, or choose"
            " gpipe, 1f1b, interleaved",
        ),
        (
            {"optimizer": "adam"},
            "momentum",
            "momentum is not read by optimizer adam; leave it",
        ),
        ({"model": "resnet18"}, "hidden", "hidden is not read by model resnet18; leave it out, or"),
        (
            {"strategy": "cpp"},
            "memory_budget_mib",
            "memory_budget_mib is not read by strategy cpp; leave",
        ),
        (
            {"strategy": "gradient_averaging"},
            "shard",
            "shard is not read by strategy gradient_averaging; leave it out, or choose sharded",
        ),
        (
            {"strategy": "sharded", "shard": "optimizer", "allreduce": "mpi"},
            "prefetch",
            "prefetch is not read by shard optimizer; leave it out, or choose gradients, weights",
        ),
        ({"strategy": "tutorial"}, "data_loading", "data_loading is not read by strategy tutorial"),
    ],
)
def test_an_option_that_was_given_and_has_no_effect_is_one_line(parameters, given, message):
    config = RunConfig(**parameters)  # tolerant by itself
    with pytest.raises(ValueError) as caught:
        check_given(config, [given])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    check_given(config, [])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_reads_what_every_run_needs(strategy):
    config = RunConfig(strategy=strategy, num_steps=1)
    check_given(config, ["num_ranks", "dataset", "lr", "num_steps", "dtype", "hidden", "seed"])
    assert config.reads("memory_budget_mib") == (strategy not in NATIVE_STRATEGIES)
