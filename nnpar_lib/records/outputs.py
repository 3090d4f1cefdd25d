"""Output files: each option writes to a file of its own kind, and no two options to the same file.

The check comes before anything is started: what it refuses would be lost at the end of a run.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

RECORDS = "a file of records"
TRACE = "a trace"
STUDY = "the tables of a study"
CHECKPOINT = "a checkpoint"
STORAGE = "a storage of a study"
SOMETHING_ELSE = "something else"
BEGINNINGS = {  # what the first bytes of a file hold
    STORAGE: b"SQLite format 3\0",
    TRACE: b'{"traceEvents"',
    STUDY: b'{"study"',
    CHECKPOINT: b'{"__metadata__',
}


def check(outputs: Mapping[str, tuple[str | Path | None, str]]) -> None:
    """Raise a ValueError of one line for an output that cannot be written, or must not be.

    `outputs` has for each option's name its file, None where it was not given, and its kind. A
    file of another kind is refused, and so are devices, pipes, folders, and a file that two options
    name, also through links. Folders that are missing are made, and an empty file where the kind is
    `RECORDS`.
    """
    paths = {name: (Path(path), kind) for name, (path, kind) in outputs.items() if path is not None}
    for name, (path, kind) in paths.items():
        _check_kind(name, path, kind)
    for (name, (path, _)), (other_name, (other_path, _)) in combinations(paths.items(), 2):
        if _is_same(path, other_path):
            raise ValueError(f"{name} and {other_name} are the same file, {path}; name two files")
    for path, kind in paths.values():
        if kind != CHECKPOINT:  # its lock finds out, and its file is replaced, not written to
            _check_writable(path, leave_file=kind == RECORDS)


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: what was there stays until the new text is on the disk.

    Raises an OSError where there is no room; nothing is left of what was written then.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(16)}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_writable(path: Path, *, leave_file: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("ab").close()
        if is_new and not leave_file:
            path.unlink()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); name a file, in a folder that you may"
            " write to, such as results/runs.jsonl"
        ) from None


def kind_of(path: Path) -> str | None:
    """Return the kind of a file by its contents; None where it is not there or empty."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        start = file.read(32)
        for kind, beginning in BEGINNINGS.items():
            if beginning in start:
                return kind
        if not start:
            return None
        file.seek(0)
        return RECORDS if any(map(_is_record, _whole_lines(file))) else SOMETHING_ELSE


def _check_kind(name: str, path: Path, kind: str) -> None:
    """Refuse what is there already if it is not of this kind."""
    try:
        mode = path.stat().st_mode
    except OSError:  # not there, which is well, or out of reach, which the next check says
        return
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name}={str(path)!r} is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name}={str(path)!r} is a device or a pipe; name a regular file")
    try:
        present = kind_of(path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); name another file, or make it readable"
        ) from None
    if present not in (None, kind) and not (kind == CHECKPOINT and present == SOMETHING_ELSE):
        raise ValueError(
            f"{name}={str(path)!r} holds {present}, and {kind} would be written there; name another"
            " file"
        )


def _is_same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return os.path.samefile(path, other)
    return path.resolve() == other.resolve()


def _whole_lines(file: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines that a crash has not torn; a first line that is torn is passed over."""
    for line in file:
        if line.startswith(b"{"):
            yield line
        elif line.strip(b"\n\0"):
            return


def _is_record(line: bytes) -> bool:
    try:
        values = json.loads(line)
    except ValueError:
        return not line.endswith(b"\n")  # torn by a crash
    return isinstance(values, dict) and "kind" in values
