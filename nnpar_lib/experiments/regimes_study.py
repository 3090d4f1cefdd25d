"""A study of scaling regimes: the search on engines, its rows in a file, and their tables."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from nnpar_lib.analysis import regimes
from nnpar_lib.config.study import StudyConfig
from nnpar_lib.launch.engines import Engines, engines
from nnpar_lib.launch.search.search import Search
from nnpar_lib.records import outputs
from nnpar_lib.records.provenance import provenance

SHOWN = [
    "goal_error",
    "batch_size",
    "status",
    "median_steps",
    "low",
    "high",
    "best_of_n",
    "slope",
    "regime",
]
FIT_SHOWN = [
    "goal_error",
    "form",
    "b_crit",
    "b_crit_low",
    "b_crit_high",
    "s_min",
    "e_min",
    "rmse",
    "preferred",
    "status",
]


def run(arguments: argparse.Namespace) -> int:
    """Search, write the tables to the file of --out, print them; return the exit status."""
    names = [field.name for field in dataclasses.fields(StudyConfig)]
    study = StudyConfig(**{name: getattr(arguments, name) for name in names})
    outputs.check(
        {
            "--out": (arguments.out, outputs.STUDY),
            "--storage": (arguments.storage, outputs.STORAGE),
        }
    )
    rows = _rows(Search(study, arguments.storage), arguments.num_ranks)
    write(arguments.out, study, rows)
    print(text(rows))
    print(f"the tables and runs are in {arguments.out}, the storage is {arguments.storage}")
    return 0


def measure(study: StudyConfig, storage: str | Path, ranks: Engines) -> pd.DataFrame:
    """Do what a study's storage does not hold yet, on running engines, and return its rows.

    Raises a ValueError where the storage is that of another study.
    """
    return pd.DataFrame(Search(study, storage).run(ranks))


def write(path: str | Path, study: StudyConfig, rows: pd.DataFrame) -> None:
    """Write the study, the tables and every run to a JSON file, whole or not at all.

    Raises a ValueError of one line where there is no room for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        "study": dataclasses.asdict(study),
        "provenance": provenance(),
        "goals": goals(rows),
        "runs": _records(rows),
    }
    try:
        outputs.replace_text(path, json.dumps(contents, allow_nan=False) + "\n")
    except OSError as error:
        raise ValueError(
            f"the tables cannot be written to {path} ({error.strerror}); make room, or name another"
            " file: the runs are kept in the storage, and the same command goes on from it"
        ) from None


def read(path: str | Path) -> pd.DataFrame:
    """Return the rows of a file that `write` made."""
    return load(path)[1]


def load(path: str | Path) -> tuple[StudyConfig, pd.DataFrame]:
    """Return a study and its rows, from a file that `write` made."""
    try:
        contents = json.loads(Path(path).read_text())
        return StudyConfig(**contents["study"]), pd.DataFrame(contents["runs"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(
            f"{path} holds no study; make one with `python -m nnpar_lib regimes --out {path}`"
        ) from None


def load_all(folder: str | Path) -> dict[str, tuple[StudyConfig, pd.DataFrame]]:
    """Return the studies of a folder, by the names of their files, such as mlp-sgd."""
    return {path.stem: load(path) for path in sorted(Path(folder).glob("*.json"))}


def goals(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return for each goal its error, a row for each batch size and the fits, as plain values."""
    table = regimes.study(rows)
    fits = regimes.fits(rows)
    return [
        {
            "goal_error": goal,
            "rows": _records(mine),
            "fits": _records(fits[fits["goal_error"] == goal]),
        }
        for goal, mine in table.groupby("goal_error", sort=False)
    ]


def text(rows: pd.DataFrame) -> str:
    """Return the tables for a terminal."""
    table = regimes.study(rows)
    fits = regimes.fits(rows)
    form = "{:.4g}".format
    return "\n\n".join(
        frame[[name for name in names if name in frame]].to_string(index=False, float_format=form)
        for frame, names in ((table, SHOWN), (fits, FIT_SHOWN))
    )


def _rows(search: Search, num_ranks: int) -> pd.DataFrame:
    """Do the rest of a search and return its rows; a search that is over starts no engine."""
    if search.is_over:
        return pd.DataFrame(search.rows())
    with engines(num_ranks) as ranks:
        return pd.DataFrame(search.run(ranks))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows with None for missing and infinite numbers, which JSON cannot hold."""
    return [
        {
            str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        for row in frame.to_dict("records")
    ]
