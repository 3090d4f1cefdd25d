"""The finished runs of a search in one file, written as they come; they survive any end of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DatabaseError, OperationalError

from nnpar_lib.config.study import StudyConfig
from nnpar_lib.launch.search.plan import Job, Outcome

DEFINITION = "nnpar_study"


class SearchStore:
    """An Optuna storage with a study for each batch size, which holds finished runs only.

    A run is a single transaction: it is stored whole or not at all. Raises a ValueError where the
    file is no such storage, or that of another study.
    """

    def __init__(self, path: Path, study: StudyConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._definition = study.to_json()
        storage = self._open()
        self._check_definition(storage)
        self._studies = {size: self._load(storage, size) for size in study.batch_sizes}
        self.done: dict[int, dict[str, Outcome]] = {
            size: {
                trial.user_attrs["name"]: trial.user_attrs["outcome"]
                for trial in stored.get_trials(deepcopy=False)
            }
            for size, stored in self._studies.items()
        }
        self._unsaved: list[tuple[Job, Mapping[str, Any]]] = []

    def keep(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Keep a finished run, which is in the file after the next `save`."""
        self.done[job.batch_size][job.name] = outcome
        self._unsaved.append((job, outcome))

    def save(self) -> None:
        """Write what was kept and is not in the file yet.

        Raises a ValueError where the file cannot be written, such as on a disk that is full.
        """
        while self._unsaved:
            try:
                self._write(*self._unsaved[0])
            except (OperationalError, StorageInternalError) as error:
                reason = getattr(error.__cause__, "orig", error.__cause__)
                raise ValueError(
                    f"{self._path} cannot be written ({reason}); {len(self._unsaved)} runs are"
                    " lost, and those before them are kept: start again once it can be written"
                ) from None
            self._unsaved.pop(0)

    def _write(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Write a finished run; a diverged run is infeasible, a run at its limit is censored."""
        last = outcome["steps"][-1]
        states = optuna.trial.TrialState
        state = states.PRUNED if last is None else states.COMPLETE
        if outcome["diverged"]:
            state = states.FAIL
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
        if "?" in str(self._path):
            raise ValueError(
                f"{self._path} has a question mark in its name, which SQLAlchemy takes for options;"
                " name another file"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return optuna.storages.RDBStorage(f"sqlite:///{self._path}")
        except OperationalError as error:
            raise ValueError(
                f"{self._path} cannot be used ({error.orig}); end the process that has it, or name"
                " another file"
            ) from None
        except (DatabaseError, RuntimeError, AssertionError):
            raise ValueError(
                f"{self._path} is not a storage of a study; name another file, or one that is not"
                " there yet"
            ) from None

    def _check_definition(self, storage: optuna.storages.RDBStorage) -> None:
        for stored in storage.get_all_studies():
            if stored.user_attrs.get(DEFINITION, self._definition) != self._definition:
                raise ValueError(
                    f"{self._path} belongs to another study, {stored.user_attrs[DEFINITION]}; name"
                    f" another file, or ask for the same as there instead of {self._definition}"
                )
            is_ours = stored.study_name.startswith("batch size ")
            if DEFINITION not in stored.user_attrs and not is_ours:
                raise ValueError(
                    f"{self._path} holds an Optuna study {stored.study_name!r} of something else;"
                    " name another file"
                )

    def _load(self, storage: optuna.storages.RDBStorage, size: int) -> optuna.Study:
        study = optuna.create_study(
            storage=storage, study_name=f"batch size {size}", load_if_exists=True
        )
        study.set_user_attr(DEFINITION, self._definition)
        return study
