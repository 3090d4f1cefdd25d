"""The pages of the API reference name every module that a user calls, and no other."""

import ast
import re

from tests.conftest import ROOT

PAGES = sorted((ROOT / "report" / "api").glob("*.md"))
PACKAGES = ("records", "analysis", "trainers/strategies")
MODULES = ("schedules", "config", "launch/engines", "launch/native", "launch/notebook", "verify")
# what only other modules of the library call
INTERNAL = {f"nnpar_lib.records.{name}" for name in ("checkpoint_file", "outputs", "wire")}


def documented():
    """Return the arguments of all automodule directives."""
    pattern = re.compile(r"^\.\. automodule:: (\S+)$", re.MULTILINE)
    return [name for page in PAGES for name in pattern.findall(page.read_text())]


def path_of(name):
    """Return the file of a module or of a package."""
    path = ROOT / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def reexported(name):
    """Return the modules from which a package takes the names that it lists in `__all__`."""
    tree = ast.parse(path_of(name).read_text())
    if "__all__" not in path_of(name).read_text():
        return set()
    return {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}


def has_public_names(path):
    definitions = (ast.FunctionDef, ast.ClassDef)
    return any(
        isinstance(node, definitions) and not node.name.startswith("_")
        for node in ast.parse(path.read_text()).body
    )


def test_every_module_that_a_user_calls_is_on_a_page():
    files = [
        *(file for folder in PACKAGES for file in (ROOT / "nnpar_lib" / folder).rglob("*.py")),
        *(path_of(f"nnpar_lib.{module}") for module in MODULES),
    ]
    needed = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in files
        if has_public_names(file)
    }
    named = documented()
    covered = set(named).union(*map(reexported, named))
    missing = needed - INTERNAL - covered
    assert missing == set(), "name them on a page of report/api, or in INTERNAL"


def test_no_page_names_a_module_that_is_gone_or_one_twice():
    named = documented()
    assert [name for name in named if not path_of(name).exists()] == []
    assert len(named) == len(set(named))
