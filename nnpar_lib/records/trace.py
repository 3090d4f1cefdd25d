"""Events of a run in the Trace Event Format, which Chrome's about:tracing and Perfetto read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnpar_lib.records import outputs
from nnpar_lib.records.kinds import RunRecord

DEFAULT_NUM_STEPS = 10


def trace_events(record: RunRecord) -> list[dict[str, Any]]:
    """Return complete events ("X", in microseconds) and the names of threads ("M"), one a rank."""
    names = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": rank, "args": {"name": f"rank {rank}"}}
        for rank in range(len(record.events))
    ]
    return names + [
        {
            "ph": "X",
            "name": _name(activity, microbatch),
            "cat": activity,
            "pid": 0,
            "tid": rank,
            "ts": start * 1e6,
            "dur": (end - start) * 1e6,
            "args": {"stage": stage, "microbatch": microbatch},
        }
        for rank, events in enumerate(record.events)
        for activity, stage, microbatch, start, end in events
    ]


def write(path: Path, record: RunRecord) -> None:
    """Write the events of a record to a file that a trace viewer opens."""
    contents = {"traceEvents": trace_events(record), "displayTimeUnit": "ms"}
    outputs.replace_text(path, json.dumps(contents))


def _name(activity: str, microbatch: int) -> str:
    return activity if microbatch < 0 else f"{activity} {microbatch}"
