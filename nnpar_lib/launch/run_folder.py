"""The folder of one run, in memory where there is room, and what runs that died left of theirs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnpar_lib.config.environment import MEMORY_FOLDER

PREFIX = "nnpar-run-"
UNLOCKED_PREFIX = "new-nnpar-run-"
MARKER = ".nnpar-run"  # a folder without it is not ours, whatever its name


@contextmanager
def run_folder(num_bytes: int = 0, parents: Sequence[str] = ()) -> Iterator[str]:
    """Make a folder with room for so many bytes; it is removed at the end.

    It lies in the first of `parents` with room, /dev/shm and then the folder for temporary files
    unless others are given. A ValueError names the room where none has enough. A lock that this
    process holds tells the folder from those of runs that died, which are removed first.
    """
    parents = parents or (MEMORY_FOLDER, tempfile.gettempdir())
    for parent in parents:
        remove_leftovers(parent)
    new = Path(tempfile.mkdtemp(prefix=UNLOCKED_PREFIX, dir=_parent_with_room(num_bytes, parents)))
    lock = os.open(new, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (new / MARKER).touch()
    folder = new.rename(new.with_name(PREFIX + new.name.removeprefix(UNLOCKED_PREFIX)))
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers(parent: str) -> None:
    """Remove this user's folders of runs whose process is gone: their lock can be taken."""
    for folder in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_uid == os.getuid() and (folder / MARKER).exists():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _parent_with_room(num_bytes: int, parents: Sequence[str]) -> str:
    rooms = {parent: _free_bytes(parent) for parent in parents}
    for parent, free in rooms.items():
        if free is not None and free >= num_bytes:
            return parent
    seen = ", ".join(
        f"{parent} has {free:,}" if free is not None else f"{parent} cannot be written to"
        for parent, free in rooms.items()
    )
    raise ValueError(
        f"the run needs {num_bytes:,} bytes of room for shared memory and its files, but {seen};"
        " make room, or name another folder in the environment variable TMPDIR"
    )


def _free_bytes(folder: str) -> int | None:
    """Return the room of a folder in bytes, None where no file can be made in it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize
