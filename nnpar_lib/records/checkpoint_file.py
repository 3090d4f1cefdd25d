"""A checkpoint as a file: named tensors behind a header in JSON (safetensors), written whole or not
at all.

One digest covers every byte of the file. Nothing in it is executed or unpickled. A lock keeps a
checkpoint for one run at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.run import with_current_names
from nnpar_lib.config.sections import fixed_by_checkpoint, resolved

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
OLD_FORMAT = 1  # its digest covers the tensors only
HEADER_KEY = "nnpar"  # among safetensors' metadata, as is the digest's
DIGEST_KEY = "sha256"
NO_DIGEST = "0" * 64  # stands in the place of the digest while the digest is computed
DIGEST = re.compile(
    rb'"sha256":"([0-9a-f]{64})"'
)  # inside the header's own text quotes are escaped
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says of itself.

    `config` is the run that wrote it and `progress` how far it was; `numbers` and `counters` hold
    those of each rank's `State`. `sha256` is the digest of the whole file; in files of the old
    format, that of the tensors.
    """

    config: dict[str, Any]
    progress: dict[str, Any]
    numbers: list[dict[str, float]]
    counters: list[dict[str, int]]
    sha256: str = ""
    format: int = FORMAT


def write(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Replace an earlier checkpoint: a crash at any moment leaves one of the two, whole.

    Raises an OSError where there is no room for it; the earlier one is still there then.
    """
    from safetensors.torch import save

    text = json.dumps(dataclasses.asdict(header), allow_nan=False)
    data = memoryview(save(dict(tensors), {HEADER_KEY: text, DIGEST_KEY: NO_DIGEST}))
    place = DIGEST.search(data)
    assert place is not None  # it was just put there
    digest = hashlib.sha256(data).hexdigest().encode()
    path = path.resolve()  # the file behind a link is replaced, not the link
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            file.writelines((data[: place.start(1)], digest, data[place.end(1) :]))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_header(path: Path) -> Header:
    """Return the header; raise a ValueError of one line where the file is not what was written."""
    try:
        with path.open("rb") as file:
            head = _read_head(path, file)
            place = DIGEST.search(head)
            digest = "" if place is None else place[1].decode()
            if place is not None and _file_digest(head, place.span(1), file) != digest:
                raise ValueError(_damaged(path))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); name another file, or make it readable"
        ) from None
    return _parse(path, head, digest)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors by name; raise a ValueError where the file is not what was written."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(_not_whole(path, str(error))) from None
    if header.format == OLD_FORMAT and _tensors_digest(tensors) != header.sha256:
        raise ValueError(_damaged(path))
    return tensors


def check(path: Path, config: RunConfig) -> Header | None:
    """Return the header of the checkpoint that a run would go on from, None where there is no file.

    Raises a ValueError of one line where the file is damaged, or belongs to another run.
    """
    if not os.path.lexists(path):
        return None
    header = read_header(path)
    written = _config_of(path, header)
    for name in fixed_by_checkpoint(config):
        before = resolved(written, name)
        now = resolved(config, name)
        if before != now:
            raise ValueError(
                f"{path} is a checkpoint of a run with {name}={before!r}, and this one has {now!r};"
                " name another file, or delete it to start anew"
            )
    num_steps = header.progress["num_steps"]
    if num_steps > config.total_steps:
        raise ValueError(
            f"{path} is from step {num_steps}, beyond the {config.total_steps} steps of this run;"
            " ask for more epochs or steps, or name another file"
        )
    return header


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a checkpoint for one run; raise a ValueError where another process has it, and name it.

    The lock is on a file beside the checkpoint. It is free again when its process ends, however it
    ends.
    """
    path = path.resolve()
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(path, lock)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that you may"
            " write to"
        ) from None
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _config_of(path: Path, header: Header) -> RunConfig:
    try:
        return RunConfig.from_parameters(header.config)
    except ValueError as error:
        raise ValueError(
            f"{path} was written by a run that this version cannot do ({error}); name another file"
        ) from None


def _read_head(path: Path, file: IO[bytes]) -> bytes:
    """Return what lies before the tensors: a length of eight bytes and as much JSON.

    Raises a ValueError where the file ends before.
    """
    length = file.read(8)
    num_bytes = int.from_bytes(length, "little")
    if num_bytes == 0 or num_bytes > os.fstat(file.fileno()).st_size - len(length):
        raise ValueError(_not_whole(path, "it ends within its header"))
    return length + file.read(num_bytes)


def _file_digest(head: bytes, place: tuple[int, int], file: IO[bytes]) -> str:
    """Return the digest of a whole file that was read up to the tensors, its place left blank."""
    start, end = place
    digest = hashlib.sha256(head[:start] + NO_DIGEST.encode() + head[end:])
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _parse(path: Path, head: bytes, digest: str) -> Header:
    """Return the header that a file's head holds; `digest` is empty in the old format."""
    try:
        metadata = json.loads(head[8:])["__metadata__"]
        values = json.loads(metadata[HEADER_KEY])
        version = values["format"]
    except KeyError:
        raise ValueError(f"{path} is no checkpoint of nnpar; name another file") from None
    except (ValueError, TypeError):
        raise ValueError(_not_whole(path, "its header is no JSON")) from None
    if version != (FORMAT if digest else OLD_FORMAT):
        raise ValueError(
            f"{path} has the format {version} of checkpoints, and this version reads {OLD_FORMAT}"
            f" and {FORMAT}; name another file"
        )
    try:
        values["config"] = with_current_names(values["config"])
        return Header(**{**values, "sha256": digest or values["sha256"]})
    except (KeyError, TypeError, ValueError):
        raise ValueError(_damaged(path)) from None


def _not_whole(path: Path, reason: str) -> str:
    return (
        f"{path} is no whole checkpoint ({reason}); delete it to start anew, or name another file"
    )


def _damaged(path: Path) -> str:
    return (
        f"{path} is damaged: its bytes are not those that were written; delete it to start anew,"
        " or name another file"
    )


def _tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of the old format."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Have the renaming itself reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path, lock: Path) -> IO[str]:
    """Return the lock's file, open and locked; remove what runs that died left beside it."""
    while True:
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(file, lock):  # nobody removed it between the two calls
                break
        except BlockingIOError:
            holder = lock.read_text().strip() or "another process"
            raise ValueError(
                f"{path} is in use by {holder}; wait for its end, or name another file"
            ) from None
        except OSError:  # a file system without locks
            return file
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    for temporary in path.parent.iterdir():
        if re.fullmatch(re.escape(path.name) + r"\.[0-9a-f]{32}\.part", temporary.name):
            temporary.unlink(missing_ok=True)
    return file


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
