"""The exercises of the notebooks: their stubs, and their solutions from the folded cells."""

import ast
import inspect

import nbformat

from nnpar_lib.course import exercises
from tests.conftest import ROOT

SUFFIX = "_solution"
IMPORTS = "exercise-imports"


def cells(notebook, *tags):
    """Return the sources of a notebook's code cells that have one of the tags."""
    (path,) = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    book = nbformat.read(path, as_version=4)
    return [
        cell.source
        for cell in book.cells
        if cell.cell_type == "code" and set(tags) & set(cell.metadata.get("tags", []))
    ]


def notebooks():
    """Return the numbers of the notebooks with exercises that are checked."""
    numbers = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [number for number in numbers if cells(number, "exercise")]


def checks(*, on_ranks):
    """Return a notebook, the name of a function and its check for each exercise.

    Those whose checks start ranks are apart from those that run here.
    """
    listed = []
    for notebook in notebooks():
        for source in cells(notebook, "exercise"):
            called = ast.parse(source).body[-1].value
            check = getattr(exercises, called.func.attr)
            if ("ranks" in inspect.signature(check).parameters) == on_ranks:
                listed.append((notebook, called.args[0].id, check))
    return listed


def solutions(notebook):
    """Return the functions of a notebook's cells with the tag `solution`, by exercise."""
    names = {}
    for source in cells(notebook, IMPORTS, "solution"):
        exec(source, names)
    return {
        name.removesuffix(SUFFIX): value for name, value in names.items() if name.endswith(SUFFIX)
    }


def verdicts_of_stubs(notebook):
    """Run the exercises of a notebook as they are given; return what each cell shows."""
    names = {}
    for source in cells(notebook, IMPORTS):
        exec(source, names)
    verdicts = []
    for source in cells(notebook, "exercise"):
        *definitions, shown = ast.parse(source).body
        exec(compile(ast.Module(definitions, []), notebook, "exec"), names)
        verdicts.append(repr(eval(compile(ast.Expression(shown.value), notebook, "eval"), names)))
    return verdicts
