"""The parameters of a notebook, checked before anything starts, and controls for its reader."""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nnpar_lib.config import RunConfig
from nnpar_lib.config.rules import check_given
from nnpar_lib.config.sections import OPTIONS

PRESETS = ("quick", "full")
DECLARED = "# parameters"  # the first line of a notebook's cell of parameters
INJECTED = "# Parameters"  # the first line of the cell that papermill inserts after it

T = TypeVar("T")


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that the notebook does not have, of which papermill only warns.

    `cells` are the sources of the cells executed so far (IPython's `In`). A notebook with a
    parameter `strategy` does one run: its options are checked as those of a run, and one that was
    given and has no effect is refused. Raises a one-line ValueError that names the parameter.
    """
    declared = _assigned(cells, DECLARED)
    given = _assigned(cells, INJECTED)
    for name in sorted(given.keys() - declared):
        near = difflib.get_close_matches(name, declared, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown parameter {name!r}; {hint}this notebook has {', '.join(sorted(declared))}"
        )
    options = {name: value for name, value in {**declared, **given}.items() if name in OPTIONS}
    if "strategy" in options:
        check_given(RunConfig.from_parameters(options), given.keys() & OPTIONS.keys())


def choose(preset: str, *, quick: T, full: T) -> T:
    """Return the value for a preset; an unknown preset is a ValueError."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    return quick if preset == "quick" else full


def choose_device(device: str) -> str:
    """Return the device of a parameter; `auto` is a GPU where torch sees one, else the CPU."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def explore(show: Callable[..., object], **choices: Sequence[Any]) -> None:
    """Call `show` with arguments from sliders in JupyterLab, with the middle ones elsewhere."""
    # Jupyter's server names the session of each kernel that it starts.
    if "JPY_SESSION_NAME" not in os.environ:
        show(**{name: values[len(values) // 2] for name, values in choices.items()})
        return
    import ipywidgets

    sliders = {
        name: ipywidgets.SelectionSlider(
            options=values,
            value=values[len(values) // 2],
            description=name,
            continuous_update=False,
            style={"description_width": "initial"},
        )
        for name, values in choices.items()
    }
    ipywidgets.interact(show, **sliders)


def show_source(shown: object) -> None:
    """Show the source of a function, method, property or class with its file and first line.

    What is shown is what runs: nothing is copied. JupyterLab and a rendered page highlight it; a
    plain text comes with it. A TypeError says what has no source.
    """
    from IPython.display import display

    place, code = source(shown)
    markdown = f"*{place}*\n\n```python\n{code}\n```"
    display({"text/markdown": markdown, "text/plain": f"{place}\n\n{code}"}, raw=True)  # type: ignore[no-untyped-call]


def show_cpp(file: str, beginning: str) -> None:
    """Show a function of the program in C++, from the line that holds `beginning` to its end.

    `file` is a name in `cpp/src`. A ValueError says where there is no such line.
    """
    from IPython.display import display

    from nnpar_lib.launch import native

    lines = (native.source() / "src" / file).read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if beginning in line), None)
    if first is None:
        raise ValueError(f"no line of {file} holds {beginning!r}")
    last = next(i for i, line in enumerate(lines[first:], start=first) if line == "}")
    place = f"cpp/src/{file}, line {first + 1}"
    code = "\n".join(lines[first : last + 1])
    shown = {
        "text/markdown": f"*{place}*\n\n```cpp\n{code}\n```",
        "text/plain": f"{place}\n\n{code}",
    }
    display(shown, raw=True)  # type: ignore[no-untyped-call]


def source(shown: object) -> tuple[str, str]:
    """Return where a function, method, property or class is defined, and its code, dedented."""
    if isinstance(shown, property):
        shown = shown.fget
    shown = inspect.unwrap(shown) if callable(shown) else shown
    try:
        file = inspect.getsourcefile(shown)  # type: ignore[arg-type]
        lines, first = inspect.getsourcelines(shown)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{shown!r} has no source; give a function, method, property or class in Python"
        ) from None
    path = Path(file or "")
    folder = Path(__file__).parents[2]
    name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
    return f"{name}, line {first}", textwrap.dedent("".join(lines)).rstrip()


def _assigned(cells: Sequence[str], beginning: str) -> dict[str, Any]:
    """Return the names that cells with this beginning assign, and their values."""
    values: dict[str, Any] = {}
    for cell in cells:
        if cell.startswith(beginning):
            for statement in ast.parse(cell).body:
                values |= _assignment(statement)
    return values


def _assignment(statement: ast.stmt) -> dict[str, Any]:
    """Return the names of one assignment and their value, as papermill and YAML write values."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            return {t.id: ast.literal_eval(value) for t in targets if isinstance(t, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return {name: ast.literal_eval(value)}
    return {}
