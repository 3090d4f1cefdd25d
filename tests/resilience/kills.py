"""Kill training runs with signal 9 at random moments, resume them, and count how many end with the
same bits.

    python -m tests.resilience.kills --runs 10 --kills 5 --seed 0 --out kills.jsonl

Each run is one of a few configs. It is killed again and again, each time one of its processes (a
rank, a launcher, ...) or all of them at once, and then left to end. A line of JSON a run says what
was killed, the steps at which it went on, and whether its weights are those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
MARK = "NNPAR_KILLS_MARK"
COMMON = ("--num-threads", "1", "--lr-schedule", "linear", "--checkpoint-every", "0.2")
CONFIGS = {
    "serial": ("--num-epochs", "12", "--optimizer", "adam", "--lr", "0.001"),
    "gradient_averaging": (
        "--strategy",
        "gradient_averaging",
        "--num-ranks",
        "2",
        "--num-epochs",
        "8",
    ),
    "weight_averaging": (
        "--strategy",
        "weight_averaging",
        "--num-ranks",
        "2",
        "--num-epochs",
        "10",
        "--average-every",
        "50",
    ),
    "pipeline": ("--strategy", "pipeline", "--num-ranks", "2", "--num-epochs", "6"),
    "tensor": ("--strategy", "tensor", "--num-ranks", "2", "--num-epochs", "8"),
}


def load(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(name: str, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "nnpar_lib",
        "run",
        *COMMON,
        *CONFIGS[name],
        *more,
        "--out",
        str(folder / "out.jsonl"),
    ]


def start(name: str, folder: Path, mark: str, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(name, folder, *more),
        cwd=ROOT,
        env={**os.environ, MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(name: str, folder: Path, *more: str) -> dict:
    """Run to the end and return the record."""
    assert start(name, folder, "", *more).wait() == 0
    return load(folder / "out.jsonl")[-1]


def marked(mark: str, variable: str = MARK) -> list[psutil.Process]:
    """Return the processes with this variable: of a run, what was started, its lifeline, mpiexec
    and the ranks."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == mark:
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def kill_at_random(name: str, folder: Path, generator: random.Random) -> str:
    """Start a run and kill a part of it at a random moment; return what was killed, once nothing is
    left of it."""
    mark, checkpoint = uuid.uuid4().hex, folder / "checkpoint"
    process = start(name, folder, mark, "--checkpoint", str(checkpoint))
    if generator.random() < 0.3:  # at the start
        time.sleep(generator.uniform(0.1, 2.0))
    else:  # while it trains
        before = modified(checkpoint)
        while modified(checkpoint) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.5))
    victims = sorted(marked(mark), key=lambda process: process.pid)
    chosen = victims if generator.random() < 0.5 else [generator.choice(victims)] if victims else []
    for victim in chosen:
        try:
            victim.kill()
        except psutil.Error:
            continue
    process.wait()
    deadline = time.monotonic() + 20
    while marked(mark):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{[process.cmdline() for process in marked(mark)]} outlived {chosen}"
            )
        time.sleep(0.05)
    return f"{len(chosen)} of {len(victims)} processes"


def modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_and_resume(name: str, generator: random.Random, num_kills: int, undisturbed: dict) -> dict:
    """Kill a run so many times, let it end, and compare."""
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        killed = [kill_at_random(name, folder, generator) for _ in range(num_kills)]
        record = finish(name, folder, "--checkpoint", str(folder / "checkpoint"))
    return {
        "config": name,
        "killed": killed,
        "resumed_at": record["resumed_at"],
        "num_steps": record["num_steps"],
        "weights_sha256": record["weights_sha256"],
        "is_identical": record["weights_sha256"] == undisturbed["weights_sha256"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    undisturbed: dict[str, dict] = {}
    for number in range(arguments.runs):
        name = list(CONFIGS)[(arguments.seed + number) % len(CONFIGS)]
        if name not in undisturbed:
            with tempfile.TemporaryDirectory() as folder:
                undisturbed[name] = finish(name, Path(folder))
        outcome = kill_and_resume(name, generator, arguments.kills, undisturbed[name])
        with arguments.out.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(outcome, flush=True)


if __name__ == "__main__":
    main()
