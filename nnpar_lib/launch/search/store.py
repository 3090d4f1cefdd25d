"""The finished runs of a search in one file, written as they come: what survives whatever ends the
search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.exc import DatabaseError

from nnpar_lib.config.study import StudyConfig
from nnpar_lib.launch.search.plan import Job, Outcome

DEFINITION = "nnpar_study"


class SearchStore:
    """An Optuna storage with one study a batch size, which holds finished runs only.

    A run is one transaction: it is there whole or not at all. Raises a ValueError where the file is
    no such storage, or that of another study.
    """

    def __init__(self, path: Path, study: StudyConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path, self._definition = path, study.to_json()
        storage = self._open()
        self._check_definition(storage)
        self._studies = {size: self._load(storage, size) for size in study.batch_sizes}
        self.done: dict[int, dict[str, Outcome]] = {
            size: {
                trial.user_attrs["name"]: trial.user_attrs["outcome"]
                for trial in found.get_trials(deepcopy=False)
            }
            for size, found in self._studies.items()
        }
        self._unsaved: list[tuple[Job, Mapping[str, Any]]] = []

    def keep(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Take note of a finished run, which is in the file after the next `save`."""
        self.done[job.batch_size][job.name] = outcome
        self._unsaved.append((job, outcome))

    def save(self) -> None:
        """Write what was kept and is not in the file yet."""
        while self._unsaved:
            self._write(*self._unsaved[0])
            self._unsaved.pop(0)

    def _write(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Write a finished run; one that is not a number in the end is infeasible, one at its limit
        is censored."""
        last = outcome["steps"][-1]
        states = optuna.trial.TrialState
        state = (
            states.FAIL
            if outcome["diverged"]
            else states.PRUNED
            if last is None
            else states.COMPLETE
        )
        distributions: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(low, high, log=True)
            for name, (low, high) in job.distributions.items()
        }
        trial = optuna.trial.create_trial(
            state=state,
            value=last if state == states.COMPLETE else None,
            params=job.parameters,
            distributions=distributions,
            user_attrs={"name": job.name, "seed": job.seed, "outcome": dict(outcome)},
        )
        self._studies[job.batch_size].add_trial(trial)

    def _open(self) -> optuna.storages.RDBStorage:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return optuna.storages.RDBStorage(f"sqlite:///{self._path}")
        except (DatabaseError, RuntimeError, AssertionError):
            raise ValueError(
                f"{self._path} is not a storage of a study; name another file, or one that is not"
                " there yet"
            ) from None

    def _check_definition(self, storage: optuna.storages.RDBStorage) -> None:
        for found in storage.get_all_studies():
            if found.user_attrs.get(DEFINITION, self._definition) != self._definition:
                raise ValueError(
                    f"{self._path} belongs to another study, {found.user_attrs[DEFINITION]}; name"
                    f" another file, or ask for the same as there instead of {self._definition}"
                )
            if DEFINITION not in found.user_attrs and not found.study_name.startswith(
                "batch size "
            ):
                raise ValueError(
                    f"{self._path} holds an Optuna study {found.study_name!r} of something else;"
                    " name another file"
                )

    def _load(self, storage: optuna.storages.RDBStorage, size: int) -> optuna.Study:
        study = optuna.create_study(
            storage=storage, study_name=f"batch size {size}", load_if_exists=True
        )
        study.set_user_attr(DEFINITION, self._definition)
        return study
