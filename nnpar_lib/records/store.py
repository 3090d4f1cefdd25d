"""Files of records: one JSON object a line, appended as they come, never rewritten.

A lock gives a file one writer at a time, whichever processes share it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.run import with_current_names
from nnpar_lib.config.sections import telling_runs_apart
from nnpar_lib.records.kinds import KINDS, SCHEMA, Record, RunRecord

if TYPE_CHECKING:
    import pandas as pd


def to_json(record: Record) -> str:
    """Return the record as one line of strict JSON, which has no infinite or undefined numbers."""
    return json.dumps(dataclasses.asdict(record), allow_nan=False)


def append(path: str | Path, records: Iterable[Record]) -> None:
    """Append records to a JSON-lines file and flush them to the disk.

    A missing file or folder is made. Raises an OSError where there is no room; the file is then as
    it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(to_json(record) + "\n" for record in records).encode()
    with path.open("ab+", buffering=0) as file:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        size = file.seek(0, os.SEEK_END)
        if size and not _ends_with_newline(file):
            data = b"\n" + data  # the last line was torn by a crash; this one must not join it
        try:
            _write_all(file, data)
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise


def append_or_print(path: str | Path, record: Record) -> bool:
    """Append a record, or print it where the file cannot be written; return whether it is there."""
    try:
        append(path, [record])
    except OSError as error:
        print(
            f"nnpar: a record could not be written to {path} ({error.strerror}) and is printed"
            " instead",
            file=sys.stderr,
            flush=True,
        )
        print(to_json(record), flush=True)
        return False
    return True


def merge(out: str | Path, paths: Sequence[str | Path]) -> tuple[int, int]:
    """Append to a file the records of other files that it does not hold yet.

    Return the number of new records and of those that it held already. Raises a ValueError where a
    file is missing, or holds something other than records.
    """
    missing = [str(path) for path in paths if not Path(path).is_file()]
    if missing:
        raise ValueError(
            f"there is no file {missing[0]}; name files of records, such as results/*.jsonl"
        )
    records = {to_json(record): record for path in paths for record in load(path)}
    known = {to_json(record) for record in load(out)}
    new = [record for line, record in records.items() if line not in known]
    append(out, new)
    return len(new), len(records) - len(new)


def load(path: str | Path) -> list[Record]:
    """Return the records of a JSON-lines file, none where there is no file; skip a torn line.

    Raises a ValueError where a line is whole and no record of this version of the library.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    try:
        return [record for line in lines if (record := _parse(line)) is not None]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} holds something other than records of schema {SCHEMA}; name another file, or"
            " move it out of the way"
        ) from None


def find_done(
    records: Iterable[Record], config: RunConfig, experiment: str, provenance: Mapping[str, Any]
) -> list[RunRecord]:
    """Return the records of the same run: parameters, experiment, code and host are the same.

    Parameters that change no result, such as the checkpoint, may differ.
    """
    wanted = _what_is_run(config.to_dict())
    return [
        record
        for record in records
        if isinstance(record, RunRecord)
        and _what_is_run(record.config) == wanted
        and record.experiment == experiment
        and all(record.provenance.get(key) == provenance[key] for key in ("host", "source_sha256"))
    ]


def _what_is_run(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in telling_runs_apart() if name in config}


def find_repeats(
    path: str | Path | None,
    configs: Sequence[RunConfig],
    num_repeats: int,
    experiment: str,
    provenance: Mapping[str, Any],
    labels: Sequence[str] = (),
) -> dict[tuple[int, int], RunRecord]:
    """Return the runs of an interleaved measurement that a file holds, by repeat and index.

    Of configs that are equal, a control among them, the labels tell which is which.
    """
    records = load(path) if path is not None else []
    done = {}
    names = labels or [""] * len(configs)
    for index, (label, config) in enumerate(zip(names, configs, strict=True)):
        is_repeated = list(configs).count(config) > 1
        for record in find_done(records, config, experiment, provenance):
            if record.repeat < num_repeats and not (is_repeated and record.label != label):
                done[record.repeat, index] = record
    return done


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return a table with a row for each record; the parameters in `config` become columns.

    Lists of widths become tuples, by which rows can be grouped.
    """
    import pandas as pd

    rows = []
    for record in records:
        row = dataclasses.asdict(record)
        config = row.pop("config", {})
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        row = {**config, **row, "host": record.provenance.get("host")}
        rows.append(row)
    return pd.DataFrame(rows)


def _write_all(file: Any, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _parse(line: str) -> Record | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    for name in ("config", "provenance"):
        if not isinstance(values.get(name, {}), dict):
            raise TypeError(f"{name} is no object")
    if "config" in values:
        values["config"] = with_current_names(values["config"])
    return KINDS[values["kind"]](**values)
