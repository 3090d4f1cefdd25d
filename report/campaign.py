"""The measurements of a report: notebooks and benchmarks one after the other, at one commit.

Between those of the full preset it is measured how quiet the machine is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from execution import execute

from nnpar_lib.config.spread import NATIVE_STRATEGIES
from nnpar_lib.experiments import quietness
from nnpar_lib.experiments.measuring import FAILURES, cause
from nnpar_lib.records import provenance
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.records.store import load

ROOT = Path(__file__).resolve().parents[1]
# in the order in which they run, each with its parameter that takes the number of cores, if it has
# one
NOTEBOOKS = {
    "00_check_your_machine": "num_ranks",
    "01_train_the_serial_baseline": "max_threads",
    "02_train_with_data_parallelism": "num_ranks",
    "03_train_with_model_parallelism": "num_ranks",
    "04_find_the_scaling_regimes": None,
    "05_compare_data_and_model_parallelism": "num_ranks",
    "06_use_the_gpu_and_precision": "num_ranks",
    "07_compare_with_cpp": "num_ranks",
    "08_demo": "num_ranks",
    "09_scale_over_nodes": "num_ranks",
    "10_build_an_all_reduce": "num_ranks",
}
BENCH = "bench"  # what `make bench` measures, for the full preset
NOISE = "campaign_noise"  # the name of the records of how quiet the machine was
# what a build itself writes there, so that it is no reason to refuse a build that goes on
WRITTEN = ("report/results", "report/published", "figures")


def require_clean(root: Path = ROOT) -> None:
    """Refuse a checkout with changes: its records would name a commit that did not make them.

    Raises a ValueError that names what has changed. What lies in no checkout is not refused.
    """
    paths = [".", *(f":(exclude){path}" for path in WRITTEN)]
    command = ["git", "-C", str(root), "status", "--porcelain", "--", *paths]
    status = subprocess.run(command, capture_output=True, text=True, check=False)
    changed = [line[3:] for line in status.stdout.splitlines()]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"the full report is measured at one commit, and {', '.join(changed[:3])}{more} has"
            " changes; commit or stash them, or add --scratch to try it out"
        )


def parameters(name: str, dataset: str, preset: str, results: Path) -> dict[str, object]:
    """Return the parameters of a notebook."""
    values: dict[str, object] = {
        "dataset": dataset,
        "preset": preset,
        "results_folder": os.path.relpath(results, ROOT / "notebooks"),
    }
    if NOTEBOOKS[name]:
        values[NOTEBOOKS[name]] = max(2, provenance.num_cores())
    return values


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Where the measurements of a data set and a preset go, and what they go on from.

    `folder` is that of the build and gets the finished notebooks; `results` gets the records. To
    `resume` is to leave out what an earlier campaign with the same parameters and the same code has
    finished, and to keep what it has recorded.
    """

    folder: Path
    dataset: str
    preset: str
    results: Path
    resume: bool = False

    def measure(self, names: Sequence[str]) -> list[Path]:
        """Measure notebooks and benchmarks, in this order; return the executed notebooks."""
        if not self.resume:
            shutil.rmtree(self._all_finished, ignore_errors=True)
        for number, name in enumerate(names, start=1):
            what = name if name == BENCH else f"notebook {number} of {len(names)}, {name}"
            if self._finished(name).exists():
                print(f"[{what}] was finished before", flush=True)
                continue
            self._measure_noise(f"before {name}", is_first=number == 1 < len(names))
            self._measure(name, what)
        if names and not self._finished("end").exists():
            self._measure_noise("at the end")
            if self._is_full:
                self._finished("end").touch()
        return [self._finished(name) for name in names if name != BENCH]

    @property
    def _is_full(self) -> bool:
        return self.preset == "full"

    @property
    def _all_finished(self) -> Path:
        return self.folder / "finished" / f"{self.dataset}-{self.preset}"

    def _finished(self, name: str) -> Path:
        """Return the file that is there once a notebook, or something else, is measured."""
        version = provenance.source_sha256()
        if self._is_full:  # at one commit, the notebooks included
            version += f"-{(_commit() or '')[:10]}"
        suffix = ".ipynb" if name in NOTEBOOKS else ".done"
        return self._all_finished / version / f"{name}{suffix}"

    def _measure(self, name: str, what: str) -> None:
        if name == BENCH:
            self._measure_bench(what)
            return
        for file in self.results.glob(f"{name[:2]}_*"):
            if not (self.resume and (file.suffix != ".jsonl" or self._is_resumable(file))):
                self._set_aside(file)
        execute(
            ROOT / "notebooks" / f"{name}.ipynb",
            self._finished(name),
            what,
            parameters(name, self.dataset, self.preset, self.results),
        )

    def _measure_bench(self, what: str) -> None:
        out = self.results.parent / f"{BENCH}.jsonl"
        self._set_aside(out)
        print(f"[{what}] ...", flush=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "nnpar_lib", BENCH, "--dataset", self.dataset]
        subprocess.run([*command, "--out", str(out)], check=True, cwd=ROOT)
        self._finished(BENCH).parent.mkdir(parents=True, exist_ok=True)
        self._finished(BENCH).touch()
        print(f"[{what}] {time.monotonic() - start:.0f} s", flush=True)

    def _measure_noise(self, moment: str, *, is_first: bool = False) -> None:
        """Wait for a quiet machine and measure its noise, in the full preset."""
        if not self._is_full:
            return
        out = self.results / f"{NOISE}.jsonl"
        if is_first and not self.resume:
            self._set_aside(out)
        start = time.monotonic()
        load_of_others = quietness.wait_until_quiet()
        try:
            quietness.measure(self.dataset, out, moment, load_of_others)
        except FAILURES as error:
            print(f"[noise {moment}] not measured: {cause(error)}", flush=True)
            return
        print(f"[noise {moment}] {time.monotonic() - start:.0f} s", flush=True)

    def _set_aside(self, file: Path) -> None:
        """Move older records, so that a report shows one run of it and nothing is lost."""
        if file.exists():
            target = self.folder / "earlier" / f"{self.results.name}-{int(time.time())}"
            target.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target)

    def _is_resumable(self, file: Path) -> bool:
        """Return whether engines would take over all of these records: runs in Python, made by this
        code and, in the full preset, at this commit."""
        return all(
            isinstance(record, RunRecord)
            and record.strategy not in NATIVE_STRATEGIES
            and record.provenance["source_sha256"] == provenance.source_sha256()
            and (not self._is_full or record.provenance["commit"] == _commit())
            for record in load(file)
        )


def _commit() -> Any:
    return provenance.provenance()["commit"]
