"""The parameters of a notebook, checked before anything starts, and controls for its reader."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

PRESETS = ("quick", "full")
DECLARED = "# parameters"  # the first line of a notebook's cell of parameters
INJECTED = "# Parameters"  # the first line of the cell that papermill inserts after it

T = TypeVar("T")


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that the notebook does not have; papermill only warns of them.

    `cells` are the sources of the cells executed so far (IPython's `In`). Raises a ValueError of
    one line that names the parameter and the nearest one that exists.
    """
    declared = _assigned(cells, DECLARED)
    for name in sorted(_assigned(cells, INJECTED) - declared):
        near = difflib.get_close_matches(name, declared, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown parameter {name!r}; {hint}this notebook has {', '.join(sorted(declared))}"
        )


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


def _assigned(cells: Sequence[str], beginning: str) -> set[str]:
    """Return the names that cells with this beginning assign."""
    trees = [ast.parse(cell) for cell in cells if cell.startswith(beginning)]
    return {
        node.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
