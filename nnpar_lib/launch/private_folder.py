"""A folder for the files of one run; those of runs that died are removed at the next start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from nnpar_lib.config.environment import MEMORY_FOLDER, RUNTIME_BYTES, free_bytes, memory_folder

PREFIX = ".nnpar-"
LOCK = ".owner"


class PrivateFolder:
    """A new folder that this process owns until it is removed, or until the process ends.

    It lies in memory where there is room, as messages between ranks pass through its files. The
    owner holds a lock on a file in it. Folders of this user that nobody holds are removed first.
    A ValueError names the room where there are no `num_bytes` for it.
    """

    def __init__(
        self,
        *,
        parent: str | Path | None = None,
        label: str = "local",
        num_bytes: int = RUNTIME_BYTES,
    ) -> None:
        for folder in (MEMORY_FOLDER, tempfile.gettempdir()):
            remove_abandoned(folder)
        where = parent or memory_folder(num_bytes) or _temporary_folder(num_bytes)
        remove_abandoned(where)
        self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{label}-", dir=where)
        self._lock = Path(self.path, LOCK).open("w")  # noqa: SIM115 - held until the end
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all that is in it; may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _temporary_folder(num_bytes: int) -> str:
    """Return the folder for temporary files; a ValueError where it has no room either."""
    folder = tempfile.gettempdir()
    free = free_bytes(folder)
    if free < num_bytes:
        raise ValueError(
            f"the run needs {num_bytes:,} bytes for its files and for what ranks share, but"
            f" {MEMORY_FOLDER} has less, and {folder} has {free:,}; make room, name another folder"
            " in the environment variable TMPDIR, or use allreduce='mpi'"
        )
    return folder


def remove_abandoned(parent: str | Path) -> None:
    """Remove the folders of this user whose owner has ended without removing them."""
    for folder in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, just removed, or in use
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with Path(folder, LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
