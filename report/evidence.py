"""The table of claims: each number with its interval, its control, records, commit and command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from chapter import STUDIES, Chapter, studies
from headlines import cost_model_of

from nnpar_lib.analysis.claims import batch_sizes, benchmarks, evidence
from nnpar_lib.analysis.cost import predictions

Rows = list[evidence.Row]


@dataclass(frozen=True)
class Source:
    """Files of records by name, the rows that rest on them, and the command that makes them."""

    names: tuple[str, ...]
    rows: Callable[[Chapter], Rows]
    command: str


def table(chapter: Chapter) -> pd.DataFrame:
    """Return the numbers that claims rest on, a row each; what was not measured has no row."""
    parts = [_rows_of(source, chapter) for source in SOURCES if _is_measured(source, chapter)]
    parts.append(_studies())
    return pd.concat(parts, ignore_index=True)


def _is_measured(source: Source, chapter: Chapter) -> bool:
    files = [chapter.results_folder / f"{name}.jsonl" for name in source.names]
    return all(file.exists() for file in files)


def _rows_of(source: Source, chapter: Chapter) -> pd.DataFrame:
    records = [r for name in source.names for r in chapter.records(name, elsewhere=True)]
    return evidence.in_words(source.rows(chapter), evidence.digits).assign(
        records=", ".join(name.removeprefix("../") for name in source.names),
        commit=evidence.commits(record.provenance for record in records),
        command=source.command,
    )


def _studies() -> pd.DataFrame:
    """Return the rows of the fits of all committed studies."""
    parts = [
        evidence.in_words(_of_study(name), evidence.digits).assign(
            records=f"regimes/{name}", commit=_commit_of(name), command="nnpar regimes"
        )
        for name in studies()
    ]
    return pd.concat(parts, ignore_index=True)


def _of_study(name: str) -> Rows:
    study, runs = studies()[name]
    return evidence.regimes(name, batch_sizes.hardest_goal(runs), study.num_seeds)


def _commit_of(name: str) -> str:
    return evidence.commits([json.loads(Path(STUDIES, f"{name}.json").read_text())["provenance"]])


def _from_frame(name: str, rows: Callable[[pd.DataFrame], Rows], command: str) -> Source:
    return Source((name,), lambda chapter: rows(chapter.frame(name, elsewhere=True)), command)


def _pipeline(chapter: Chapter) -> Rows:
    return evidence.pipeline(chapter.records("03_schedules"))


def _cost_model(chapter: Chapter) -> Rows:
    return evidence.cost_model(predictions.compare(*cost_model_of(chapter)))


def _bench(chapter: Chapter) -> Rows:
    return benchmarks.table(chapter.frame("../bench", elsewhere=True)).to_dict("records")


SOURCES = (
    _from_frame("02_ladder", evidence.ladder, "notebook 02"),
    _from_frame("00_allreduce", evidence.allreduce, "notebook 00"),
    _from_frame("02_weak_scaling", evidence.efficiency, "notebook 02"),
    _from_frame("01_accuracy", evidence.accuracy, "notebook 01"),
    _from_frame("02_averaging", evidence.accuracy, "notebook 02"),
    Source(("03_schedules",), _pipeline, "notebook 03"),
    _from_frame("05_grid", evidence.best_way, "notebook 05"),
    Source(("05_costs", "05_grid"), _cost_model, "notebook 05"),
    _from_frame("06_precision", evidence.precisions, "notebook 06"),
    _from_frame("06_ranks", evidence.of_ranks, "notebook 06"),
    _from_frame("07_framework", evidence.in_cpp, "notebook 07"),
    Source(("../bench",), _bench, "make bench"),
)
