"""Notebooks, executed by papermill into files that appear when they are whole."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
import papermill

REPORT = Path(__file__).resolve().parent
# a kernel complains that it speaks over plain TCP, and that it is interrupted when it is shut down;
# what a cell raises comes by another way
QUIET_KERNEL = ["--log-level=CRITICAL"]


def execute(source: Path, target: Path, title: str, values: dict[str, object]) -> None:
    """Execute a notebook with parameters and say how long it took; what a cell raises is raised."""
    print(f"[{title}] ...", flush=True)
    start, unfinished = time.monotonic(), target.with_suffix(".unfinished.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    executed = papermill.execute_notebook(
        source,
        unfinished,
        parameters=values,
        cwd=source.parent,
        kernel_name="python3",
        progress_bar=sys.stderr.isatty(),
        log_output=False,
        extra_arguments=QUIET_KERNEL,
    )
    if source.parent == REPORT:  # a page to read: its parameters are of no interest there
        _hide_parameters(executed, unfinished)
    unfinished.replace(target)
    print(f"[{title}] {time.monotonic() - start:.0f} s", flush=True)


def _hide_parameters(executed: nbformat.NotebookNode, target: Path) -> None:
    for cell in executed.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
    nbformat.write(executed, target)
