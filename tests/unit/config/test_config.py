"""A config is right when it exists: a wrong value is refused in one line that names it and says
what would be right."""

import dataclasses
import json

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import MODELS
from nnpar_lib.config.run import with_current_names
from nnpar_lib.config.spread import NATIVE_STRATEGIES, STRATEGIES
from nnpar_lib.config.training import DATASETS, NUM_TRAINING_EXAMPLES

CNN = {"model": "cnn"}
AVERAGING = {"strategy": "gradient_averaging", "num_ranks": 2}
BAD = [
    ({"strategy": "ddp"}, "unknown strategy 'ddp'", "torch_ddp"),
    ({"strategy": "gradient_averagin"}, "'gradient_averagin'", "did you mean 'gradient_averaging'"),
    ({"model": "resnet"}, "unknown model 'resnet'", "mlp, cnn"),
    ({"dataset": "Mnist"}, "unknown dataset 'Mnist'", "did you mean 'mnist'"),
    ({"optimizer": "lion"}, "unknown optimizer 'lion'", "adam"),
    ({"allreduce": "star"}, "unknown allreduce 'star'", "shared, mpi, overlapped, ring"),
    ({"strategy": "pipeline", "num_ranks": 2, "allreduce": "ring"}, "'ring'", "'mpi'"),
    ({"strategy": "cpp", "allreduce": "two_level"}, "'two_level'", "gradient_averaging"),
    ({"inside_nodes": "mpi"}, "unknown inside_nodes 'mpi'", "ring, recursive_doubling"),
    ({"ranks_per_node": -1}, "ranks_per_node=-1", "at least 0"),
    ({"dtype": "bfloat16"}, "unknown dtype 'bfloat16'", "float32, float64"),
    ({"device": "cuda:0"}, "unknown device 'cuda:0'", "did you mean 'cuda'"),
    ({"lr_schedule": "step"}, "unknown lr_schedule 'step'", "constant, linear, cosine"),
    ({"data_loading": "disk"}, "unknown data_loading 'disk'", "memory, loader"),
    ({"num_ranks": 0}, "num_ranks=0", "at least 1"),
    ({"num_ranks": "2"}, "num_ranks='2'", "type int"),
    ({"num_ranks": 2.0}, "num_ranks=2.0", "type int"),
    ({"num_ranks": True}, "num_ranks=True", "type int"),
    ({"num_epochs": -1}, "num_epochs=-1", "at least 1"),
    ({"num_steps": 0}, "num_steps=0", "at least 1"),
    ({"num_steps": "all"}, "num_steps='all'", "type int"),
    ({"num_threads": -1}, "num_threads=-1", "at least 0"),
    ({"seed": -1}, "seed=-1", "at least 0"),
    ({"seed": 2**64}, "seed=18446744073709551616", f"at most {2**63 - 1}"),
    ({"num_epochs": 10**30}, f"num_epochs={10**30}", f"at most {2**63 - 1}"),
    ({"num_traced_steps": 10**30}, f"num_traced_steps={10**30}", f"at most {2**63 - 1}"),
    ({"num_warmup_steps": 10**9}, "num_warmup_steps=1000000000", "at most 100000"),
    ({"memory_budget_mib": 10**15}, "memory_budget_mib=1000000000000000", f"at most {2**40}"),
    ({"lr": 10**400}, f"lr={10**400}", "too large for a floating-point number"),
    ({"stall_seconds": -(10**400)}, "stall_seconds=-1000", "too large for a floating-point"),
    ({"evaluate_every": -1}, "evaluate_every=-1", "at least 0"),
    ({"bucket_kib": 0}, "bucket_kib=0", "at least 1"),
    ({"lr": 0}, "lr=0", "positive"),
    ({"lr": float("nan")}, "lr=nan", "positive"),
    ({"lr": float("inf")}, "lr=inf", "positive"),
    ({"lr": "0.1"}, "lr='0.1'", "type float"),
    ({"lr": None}, "lr=None", "type float"),
    ({"momentum": 1.0}, "momentum=1.0", "[0, 1)"),
    ({"momentum": 0, "optimizer": "nesterov"}, "momentum=0", "use optimizer='sgd'"),
    ({"shard_data": 1}, "shard_data=1", "type bool"),
    ({"hidden": "256;128"}, "hidden='256;128'", "256,128"),
    ({"hidden": ""}, "hidden=''", "256,128"),
    ({"hidden": "256,"}, "hidden='256,'", "256,128"),
    ({"hidden": 256.0}, "256.0", "whole numbers"),
    ({"hidden": True}, "True", "whole numbers"),
    ({"hidden": [256, "128"]}, "'128'", "whole numbers"),
    ({"hidden": 0}, "hidden=(0,)", "positive whole numbers"),
    ({"hidden": "256,-1"}, "hidden=(256, -1)", "positive whole numbers"),
    ({"channels": None}, "None", "whole numbers"),
    ({"channels": "a,b"}, "channels='a,b'", "256,128"),
    ({"channels": [32, 0]}, "channels=(32, 0)", "positive whole numbers"),
    ({"global_batch_size": 0}, "global_batch_size=0", "at least 1"),
    ({"global_batch_size": 12_001}, "global_batch_size=12001", "at most 12000"),
    (
        {"global_batch_size": 3, "num_ranks": 4, "strategy": "gradient_averaging"},
        "num_ranks=4",
        "fewer ranks",
    ),
    ({"num_ranks": 2}, "num_ranks=2", "gradient_averaging"),
    ({"strategy": "root_worker", "shard_data": False}, "num_ranks=1", "at least 2"),
    (
        {"strategy": "weight_averaging", "allreduce": "overlapped"},
        "'weight_averaging'",
        "use gradient_averaging",
    ),
    (
        {"strategy": "sharded", "shard": "all"},
        "unknown shard 'all'",
        "optimizer, gradients, weights",
    ),
    (
        {"strategy": "sharded", "device": "cuda"},
        "allreduce='shared'",
        "use allreduce='mpi'",
    ),
    (
        {"strategy": "torch_fsdp", "model": "cnn", "memory_format": "channels_last"},
        "'channels_last'",
        "use 'contiguous', or the strategy sharded",
    ),
    ({"strategy": "sharded", "allreduce": "overlapped"}, "'sharded'", "'shared' or 'mpi'"),
    ({"schedule": "gpip"}, "unknown schedule 'gpip'", "did you mean 'gpipe'"),
    ({"num_microbatches": 0}, "num_microbatches=0", "at least 1"),
    (
        {"strategy": "pipeline", "num_ranks": 4},
        "4 stages are more than the 3 blocks",
        "fewer ranks",
    ),
    (
        {"strategy": "pipeline", "num_ranks": 2, "schedule": "interleaved"},
        "4 stages",
        "fewer ranks or chunks",
    ),
    (
        {"strategy": "pipeline", "num_ranks": 2, "num_microbatches": 129},
        "num_microbatches=129",
        "the 128 examples",
    ),
    (
        {"strategy": "hybrid", "num_ranks": 4, "pipeline_size": 3},
        "pipeline_size=3",
        "choose from 1, 2, 4",
    ),
    (
        {"strategy": "pipeline", "num_ranks": 4, "pipeline_size": 2},
        "pipeline_size=2",
        "use the strategy hybrid",
    ),
    (
        {"strategy": "pipeline", "num_ranks": 2, "balance": "time"},
        "balance='time'",
        "layers nor measured",
    ),
    (
        {"strategy": "pipeline", "num_ranks": 3, "balance": [2, 1]},
        "balance='2,1'",
        "2 rising numbers from 1 to 2",
    ),
    ({"strategy": "pipeline", "data_loading": "loader"}, "data_loading='loader'", "use 'memory'"),
    ({"strategy": "torch_pipelining", "schedule": "sequential"}, "'sequential'", "use gpipe"),
    ({"strategy": "tensor", "recompute": True}, "recompute", "gradient_averaging"),
    ({"recompute": True, "record": True}, "record", "leave one out"),
    (
        {"strategy": "pipeline", "schedule": "zero_bubble", "num_ranks": 2, "recompute": True},
        "'zero_bubble'",
        "schedule='1f1b'",
    ),
    ({"strategy": "pipeline", "schedule": "zero_bubble"}, "'zero_bubble'", "at least 2 ranks"),
    (
        {"strategy": "hybrid", "schedule": "zero_bubble", "num_ranks": 2, "pipeline_size": 1},
        "'zero_bubble'",
        "at least 2 ranks",
    ),
    (
        {
            "strategy": "torch_pipelining",
            "schedule": "interleaved",
            "num_ranks": 2,
            "hidden": "9,9,9",
            "num_steps": 1,
            "num_microbatches": 5,
            "global_batch_size": 60,
        },
        "num_microbatches=5",
        "multiple of num_ranks=2",
    ),
    (
        {
            "strategy": "torch_pipelining",
            "num_ranks": 3,
            "num_microbatches": 2,
            "global_batch_size": 60,
        },
        "num_microbatches=2 is less than the 3 stages",
        "schedule='gpipe'",
    ),
    ({"strategy": "torch_pipelining", "global_batch_size": 66}, "global_batch_size=66", "multiple"),
    (
        {"strategy": "tensor", "num_ranks": 4, "hidden": 3},
        "num_ranks=4",
        "fewer ranks or wider layers",
    ),
    ({**CNN, "kernel_size": 15}, "kernel_size=15", "smaller kernel"),
    ({"allreduce": "ncl"}, "unknown allreduce 'ncl'", "did you mean 'nccl'"),
    (
        {"strategy": "torch_ddp", "num_ranks": 2, "allreduce": "gloo"},
        "not offered by strategy 'torch_ddp'",
        "use gradient_averaging",
    ),
    (
        {**AVERAGING, "allreduce": "nccl"},
        "device='cuda', not on 'cpu'",
        "choose allreduce='mpi'",
    ),
    (
        {**AVERAGING, "allreduce": "gloo", "device": "cuda"},
        "device='cpu', not on 'cuda'",
        "allreduce='mpi'",
    ),
    (
        {"record": True, "strategy": "pipeline", "num_ranks": 2},
        "strategy 'pipeline'",
        "serial, gradient_averaging",
    ),
    (
        {"record": True, "device": "cuda", "optimizer": "adagrad"},
        "optimizer='adagrad'",
        "choose another optimizer",
    ),
    (
        {"record": True, "device": "cuda", "data_loading": "loader"},
        "data_loading='loader'",
        "use data_loading='memory'",
    ),
    (
        {**AVERAGING, "record": True, "allreduce": "overlapped"},
        "allreduce='overlapped'",
        "use 'shared' or 'mpi'",
    ),
    (
        {**AVERAGING, "record": True, "model": "resnet18"},
        "batch_norm='synchronised'",
        "use batch_norm='local'",
    ),
]


@pytest.mark.parametrize(("parameters", "value", "remedy"), BAD)
def test_a_wrong_value_is_refused_in_one_line_that_names_it_and_the_remedy(
    parameters, value, remedy
):
    with pytest.raises(ValueError) as caught:
        RunConfig(**parameters)
    message = str(caught.value)
    assert value in message
    assert remedy in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (256, (256,)),
        ("256", (256,)),
        ("256,128", (256, 128)),
        (" 256, 128 ", (256, 128)),
        ([256, 128], (256, 128)),
        ((256, 128), (256, 128)),
        ([], ()),
    ],
)
def test_widths_are_taken_as_papermill_and_shells_give_them(given, expected):
    assert RunConfig(hidden=given).hidden == expected
    assert RunConfig(hidden=given).hidden_widths == expected
    assert RunConfig(channels=given).channels == expected


def test_widths_left_out_are_those_of_the_model():
    assert RunConfig(hidden=None).hidden_widths == (256, 128)
    assert RunConfig(model="cnn").hidden_widths == (128,)


@pytest.mark.parametrize("given", ["1,2", [1, 2], (1, 2)])
def test_cuts_are_taken_as_papermill_and_shells_give_them(given):
    config = RunConfig(strategy="pipeline", num_ranks=3, balance=given)
    assert (config.balance, config.cuts) == ("1,2", (1, 2))
    assert RunConfig(strategy="pipeline", num_ranks=2, balance=1).cuts == (1,)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown parameter 'num_rank'; did you mean 'num_ranks'\?"
    ):
        RunConfig.from_parameters({"num_rank": 2})
    with pytest.raises(ValueError, match=r"did you mean 'momentum'\?"):
        RunConfig().replace(momentun=0.5)


def test_replace_changes_a_copy_and_checks_it():
    config = RunConfig(strategy="gradient_averaging", num_ranks=4)
    changed = config.replace(num_ranks=2)
    assert (config.num_ranks, changed.num_ranks, changed.strategy) == (4, 2, "gradient_averaging")
    with pytest.raises(ValueError, match="num_ranks=4"):
        config.replace(strategy="serial")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_ranks = 3


@pytest.mark.parametrize(
    ("strategy", "model"),
    [(s, m) for s in STRATEGIES for m in MODELS if m == "mlp" or s not in NATIVE_STRATEGIES],
)
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_config_survives_json(strategy, model, dataset):
    hidden = None if model == "resnet18" else (12, 3)
    config = RunConfig(
        strategy=strategy, model=model, dataset=dataset, hidden=hidden, lr=1e-3, num_steps=1
    )
    again = RunConfig.from_parameters(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("changes", "per_epoch", "total"),
    [
        ({"global_batch_size": 100}, 120, 120),
        ({"global_batch_size": 128}, 94, 94),
        ({"global_batch_size": 12_000, "num_epochs": 3}, 1, 3),
        ({"dataset": "mnist", "num_epochs": 2}, 469, 938),
        ({"num_steps": 10}, 94, 10),
        ({"num_steps": 1_000, "num_epochs": 2}, 94, 188),
    ],
)
def test_the_number_of_steps_includes_a_last_short_batch(changes, per_epoch, total):
    config = RunConfig(**changes)
    assert config.num_steps_per_epoch == per_epoch
    assert config.total_steps == total


def test_every_set_is_counted():
    assert set(NUM_TRAINING_EXAMPLES) == set(DATASETS)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"communicator": "mpi", "allreduce": "overlapped"}, "overlapped"),
        ({"communicator": "nccl", "allreduce": "shared"}, "nccl"),
        ({"communicator": "gloo", "allreduce": "mpi"}, "gloo"),
        ({"allreduce": "mpi"}, "mpi"),
    ],
)
def test_a_stored_config_is_read_under_the_names_of_today(stored, expected):
    before = dict(stored)
    assert with_current_names(stored) == {"allreduce": expected}
    assert stored == before


def test_a_stored_config_says_under_the_name_of_today_whether_steps_were_recorded():
    assert with_current_names({"cuda_graph": True}) == {"record": True}
    assert with_current_names({"record": False}) == {"record": False}
