"""The exercises of the notebooks: their stubs, and their solutions from the folded cells."""

import ast

import nbformat

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
