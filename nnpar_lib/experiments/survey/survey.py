"""The survey: checks, the loop within its minutes, what it prints, and the tables at its end."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nnpar_lib.analysis.claims import machines
from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import free_bytes
from nnpar_lib.config.network import MODELS
from nnpar_lib.experiments.survey import groups, machine, tables
from nnpar_lib.experiments.survey.group import CPP, GPU, PARTS, PREDICTIONS, Group, Place
from nnpar_lib.experiments.survey.measuring import Bench
from nnpar_lib.experiments.survey.plan import PILOT, Plan, Work, slice_of
from nnpar_lib.launch import preflight
from nnpar_lib.records import outputs, store
from nnpar_lib.records.kinds import MachineRecord, PredictionRecord, Record
from nnpar_lib.records.provenance import provenance, source_sha256

FILE = "survey.jsonl"
FOLDER = Path("report/results/machines")
MIN_MINUTES = 0.1
MIN_FREE_BYTES = 32 * 2**20
START_SECONDS = 4.0  # of engines
STOP_SECONDS = 2.5  # of engines, and of the tables at the end
OVERHEAD_SECONDS = {"mlp": 0.4, "cnn": 0.7, "resnet18": 1.5}  # of a run, beside its training
SPREAD = 1.1  # of the seconds of what was done before
BUILD_SECONDS = 40.0  # of the program in C++, once
GPU_RUN_SECONDS = 3.0


def run(arguments: argparse.Namespace) -> int:
    """Survey this machine for some minutes; return the exit status, 1 where something failed."""
    start = psutil.Process().create_time()
    _check_words(arguments)
    description = machine.describe()
    name = machine.name_of(description)
    folder = arguments.out or FOLDER / name
    file = folder / FILE
    records = _check(file, description)
    place = _place(description, arguments)
    all_groups = _groups(place, arguments.parts)
    preflight.check(RunConfig(dataset=arguments.dataset))
    survey = Survey(
        file=file,
        groups=all_groups,
        plan=Plan(all_groups, arguments.run_seconds),
        slice=1 + max([0, *map(slice_of, records)]),
        name=name,
        deadline=start + 60 * arguments.minutes,
        run_seconds=arguments.run_seconds,
    )
    print(f"{name}: {machine.in_words(description)}", flush=True)
    for part in _skipped(place, arguments.parts):
        print(part, flush=True)
    return survey.run(description, arguments)


@dataclass(kw_only=True)
class Survey:
    """A slice of a survey: what there is to measure, and until when (seconds since the epoch)."""

    file: Path
    groups: Sequence[Group]
    plan: Plan
    slice: int
    name: str
    deadline: float
    run_seconds: float

    def __post_init__(self) -> None:
        self._seconds: dict[tuple[str, str, int], float] = {}  # of each piece of work, a run
        self._slowness = 1.0  # of this machine, over what is guessed
        self._num_failures = 0
        self._is_running = False
        self._has_program = False

    def run(self, description: dict[str, Any], arguments: argparse.Namespace) -> int:
        """Do work until time or work is over, and print the tables; return the exit status."""
        if not self._left():
            self._print_tables()
            print(f"nothing is left to measure: {self.file} holds all of it")
            return 0
        self._begin(description, arguments)
        most = max([1, *(c.num_ranks for group in self.groups for c in group.configs.values())])
        with Bench(max(most, description["num_cores"]), self.file) as bench:
            while (work := self._next()) is not None:
                self._do(work, bench)
        self._say_what_is_left()
        return int(self._num_failures > 0)

    def _begin(self, description: dict[str, Any], arguments: argparse.Namespace) -> None:
        record = MachineRecord(
            name=self.name,
            slice=self.slice,
            minutes=arguments.minutes,
            parts=list(arguments.parts),
            description=description,
            provenance={**provenance(), **self._origin([])},
            experiment="survey",
        )
        store.append(self.file, [record])

    def _left(self) -> list[Work]:
        return list(self.plan.works(store.load(self.file), self.slice))

    def _next(self) -> Work | None:
        """Return the first work that there is time for, None where there is none."""
        left = self.deadline - time.time() - STOP_SECONDS
        if free_bytes(str(self.file.parent)) < MIN_FREE_BYTES:
            raise ValueError(f"{self.file.parent} has no room for more records; {_GO_ON}")
        return next((work for work in self._left() if self._estimate(work) <= left), None)

    def _do(self, work: Work, bench: Bench) -> None:
        before = store.load(self.file)
        bench.origin = self._origin(before)
        start = time.time()
        failure = bench.do(work)
        seconds = time.time() - start
        records = store.load(self.file)
        if len(records) <= len(before):
            raise ValueError(f"no record could be written to {self.file}; {_GO_ON}")
        if failure is not None:
            self._num_failures += 1
            what = f"{failure.experiment} {failure.label}".strip()
            print(f"failed: {what}: {failure.cause}", flush=True)
        elif self._is_running:
            self._learn(work, seconds)
        self._is_running = failure is None
        self._has_program |= _is_native(work)
        self._show(work, records, records[len(before) :])

    def _learn(self, work: Work, seconds: float) -> None:
        """Note how long a piece of work took, and whether that was longer than guessed."""
        if _key(work) not in self._seconds:
            ratio = seconds / self._guess(work)
            self._slowness = max(1.0, (self._slowness + ratio) / 2)
        self._seconds[_key(work)] = seconds / max(1, work.num_runs)

    def _show(self, work: Work, records: Sequence[Record], new: Sequence[Record]) -> None:
        """Print what a piece of work has measured."""
        if work.experiment.startswith(PILOT) or not new:
            return
        left = max(0.0, self.deadline - time.time())
        print(f"{work.experiment}, {left / 60:.1f} minutes left", flush=True)
        if work.group.measure is None:
            print("\n".join(tables.result_lines(records, work.experiment)), flush=True)
        for record in new:
            if isinstance(record, PredictionRecord) and record.predicted_seconds is not None:
                milliseconds = 1e3 * record.predicted_seconds
                print(f"  {record.experiment}, {record.label}: {milliseconds:.3g} ms a step")
        for line in tables.sweep_lines(new):
            print(line, flush=True)

    def _estimate(self, work: Work) -> float:
        """Return about how many seconds a piece of work takes."""
        start = 0.0 if self._is_running else START_SECONDS
        known = self._seconds.get(_key(work))
        if known is not None:
            return start + SPREAD * known * max(1, work.num_runs)
        return start + self._slowness * self._guess(work)

    def _guess(self, work: Work) -> float:
        """Return the seconds of what was not done before, on a machine like those known."""
        if work.group.measure is not None:
            return work.group.seconds
        seconds = BUILD_SECONDS if _is_native(work) and not self._has_program else 0.0
        training = GPU_RUN_SECONDS if work.group.given_steps else self.run_seconds
        for index, config in enumerate(work.configs.values()):
            if index not in work.done:
                seconds += OVERHEAD_SECONDS[config.model]
                seconds += 0.0 if work.experiment.startswith(PILOT) else training
        return seconds

    def _origin(self, records: Sequence[Record]) -> dict[str, Any]:
        noise = machines.noise(records)
        return {"survey": {"machine": self.name, "slice": self.slice, "noise": noise}}

    def _print_tables(self) -> None:
        text = tables.text(store.load(self.file))
        if text:
            print(text)

    def _say_what_is_left(self) -> None:
        self._print_tables()
        left = self._left()
        print(f"the records are in {self.file}")
        if left:
            names = list(dict.fromkeys(work.group.experiment for work in left))
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            print(f"left to measure, by the same command: {shown}")


_GO_ON = "make room, and the same command goes on from what is there"


def _check_words(arguments: argparse.Namespace) -> None:
    if not arguments.minutes >= MIN_MINUTES:
        raise ValueError(
            f"--minutes {arguments.minutes:g} has no room for a measurement; take at least"
            f" {MIN_MINUTES:g}"
        )
    for option, words, known in (
        ("--parts", arguments.parts, PARTS),
        ("--models", arguments.models, MODELS),
    ):
        wrong = [word for word in words if word not in known]
        if wrong or not words:
            named = repr(wrong[0]) if wrong else "nothing"
            raise ValueError(f"{option} names {named}; choose from {', '.join(known)}")


def _check(file: Path, description: dict[str, Any]) -> list[Record]:
    """Refuse a folder that cannot be written to, or that holds another survey; return its
    records."""
    outputs.check({"--out": (file, outputs.RECORDS)})
    if free_bytes(str(file.parent)) < MIN_FREE_BYTES:
        raise ValueError(
            f"{file.parent} has less than {MIN_FREE_BYTES // 2**20} MiB of room for records; make"
            " room, or name another folder with --out"
        )
    records = store.load(file)
    earlier = [record for record in records if isinstance(record, MachineRecord)]
    if records and not earlier:
        raise ValueError(f"{file} holds no survey; name another folder with --out")
    for record in earlier:
        _check_same(file, record, description)
    return records


def _check_same(file: Path, earlier: MachineRecord, description: dict[str, Any]) -> None:
    for name in machine.IDENTITY:
        if earlier.description.get(name) != description[name]:
            raise ValueError(
                f"{file.parent} is the survey of another machine: {name} is"
                f" {earlier.description.get(name)!r} there and {description[name]!r} here; name"
                " another folder with --out"
            )
    if earlier.provenance["source_sha256"] != source_sha256():
        raise ValueError(
            f"{file.parent} was measured with another version of the code (source"
            f" {earlier.provenance['source_sha256']}, now {source_sha256()}); name another folder"
            " with --out"
        )


def _place(description: dict[str, Any], arguments: argparse.Namespace) -> Place:
    return Place(
        num_cores=description["num_cores"],
        num_node_cores=description["num_node_cores"],
        num_gpus=len(description["gpus"]),
        dataset=arguments.dataset,
        models=tuple(arguments.models),
        has_compiler=shutil.which("c++") is not None,
    )


def _groups(place: Place, parts: Sequence[str]) -> list[Group]:
    all_groups = groups.groups(place, parts)
    if not all_groups:
        raise ValueError(
            f"there is nothing to measure: {'; '.join(_skipped(place, parts))}; name other --parts"
        )
    return all_groups


def _skipped(place: Place, parts: Sequence[str]) -> list[str]:
    """Return a line for each part of which nothing can be measured here."""
    reasons = {
        GPU: "no GPU that torch can use",
        CPP: "no C++ compiler, no second core or no mlp",
        PREDICTIONS: "no part of runs to predict",
    }
    measured = {group.part for group in groups.groups(place, parts)}
    return [
        f"{part} is skipped: {reasons.get(part, 'it needs a second core')}"
        for part in parts
        if part not in measured
    ]


def _is_native(work: Work) -> bool:
    return any(config.is_native for config in work.configs.values())


def _key(work: Work) -> tuple[str, str, int]:
    first = next(iter(work.configs.values()), None)
    size = 0 if first is None else first.global_batch_size
    return work.experiment, "" if first is None else first.model, size
