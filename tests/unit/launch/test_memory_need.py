"""The memory of a run is computed from its config, and compared with what there is."""

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import memory_need, preflight
from nnpar_lib.trainers.models import networks
from tests.conftest import run_python

GIB = 2**30


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden": (16,)},
        {"model": "cnn"},
        {"model": "cnn", "channels": (3, 5, 7), "kernel_size": 5, "hidden": (11, 13)},
        {"model": "resnet18", "width": 4},
        {"model": "resnet18", "width": 8, "stem": "small"},
    ],
)
def test_parameters_are_those_of_the_network(options):
    config = RunConfig(**options)
    counted = networks.num_parameters(networks.build(config))
    assert memory_need.num_parameters(config) == counted


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": (1_000_000_000,)}, r"needs at least 10,052,062,914,680 bytes"),
        ({"model": "resnet18", "width": 1_000_000}, "bytes of memory for 1 rank on this machine"),
        ({"model": "cnn", "channels": (1_000_000, 1_000_000)}, r"which has [\d,]+ left"),
        ({"strategy": "gradient_averaging", "num_ranks": 12_000, "global_batch_size": 12_000},
         "for 12000 ranks"),
        ({"strategy": "cpp", "hidden": (40_000, 40_000)}, "takes at most 268,435,456; take narrow"),
        ({"strategy": "cpp", "hidden": (12_000, 12_000), "num_threads": 1024}, "bytes of memory"),
        ({"strategy": "cpp", "num_epochs": 1_000_000_000}, "bytes of memory"),
        ({"num_threads": 1_000_000}, "num_threads=1000000 is more than a rank can start"),
    ],
)  # fmt: skip
def test_what_no_machine_holds_is_refused_in_one_line(options, match):
    with pytest.raises(ValueError, match=match) as error:
        preflight.check(RunConfig(**options))
    assert "\n" not in str(error.value)


def test_the_shell_refuses_it_before_anything_is_allocated():
    process = run_python("-m", "nnpar_lib", "run", "--strategy", "cpp", "--hidden", "40000,40000")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("nnpar: hidden=(40000, 40000) makes a network of 1,631,")


def test_ranks_of_several_nodes_share_the_need():
    config = RunConfig(strategy="gradient_averaging", num_ranks=4, hidden=(4096, 4096))
    assert memory_need.rank_bytes(config) < 0.5 * GIB
    memory_need.check(config, num_nodes=2)


def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_need, "CGROUPS", tmp_path)
    for name, value in {"max": "5000000", "current": "3000000"}.items():
        (tmp_path / f"memory.{name}").write_text(value)
    (tmp_path / "memory.stat").write_text("anon 3\ninactive_file 1000000\n")
    (tmp_path / "memory").mkdir()
    for name, value in {"limit": "5000000", "usage": "3000000"}.items():
        (tmp_path / f"memory/memory.{name}_in_bytes").write_text(value)
    (tmp_path / "memory/memory.stat").write_text("inactive_file 1000000\n")
    assert memory_need.available_bytes() == 3_000_000
    with pytest.raises(ValueError, match="which has 3,000,000 left"):
        memory_need.check(RunConfig())
