"""A checkpoint as a file: named tensors behind a header in JSON (safetensors), written whole or not
at all.

Nothing in it is ever executed or unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.run import with_current_names
from nnpar_lib.config.sections import fixed_by_checkpoint, resolved

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KEY = "nnpar"  # of the header among safetensors' metadata


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says of itself.

    `config` is the run that wrote it and `progress` how far it was; `numbers` and `counters` hold
    each rank's own of a `State`; `sha256` is that of all tensors.
    """

    config: dict[str, Any]
    progress: dict[str, Any]
    numbers: list[dict[str, float]]
    counters: list[dict[str, int]]
    sha256: str = ""
    format: int = FORMAT


def write(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Put a checkpoint in the place of an earlier one: a crash at any moment leaves one of the two,
    whole.

    Raises an OSError where there is no room for it; the earlier one is still there then.
    """
    from safetensors.torch import save

    header = dataclasses.replace(header, sha256=_digest(tensors))
    data = save(dict(tensors), {KEY: json.dumps(dataclasses.asdict(header), allow_nan=False)})
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_header(path: Path) -> Header:
    """Return the header; raise a ValueError of one line where the file is no whole checkpoint."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise ValueError(f"{path} is no checkpoint of nnpar; name another file")
    values = json.loads(text)
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {values.get('format')} of checkpoints, and this version reads"
            f" {FORMAT}; name another file"
        )
    return Header(**{**values, "config": with_current_names(values["config"])})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors by name; raise a ValueError where their bytes are not those that were
    written."""
    header = read_header(path)
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if _digest(tensors) != header.sha256:
        raise ValueError(
            f"{path} is damaged: its numbers are not those that were written; delete it to start"
            " anew, or name another file"
        )
    return tensors


def check(path: Path, config: RunConfig) -> Header | None:
    """Return the header of the checkpoint that a run would go on from, None where there is no file.

    Raises a ValueError of one line where it is damaged, or where it belongs to another run.
    """
    if not path.exists():
        return None
    header = read_header(path)
    written = RunConfig.from_parameters(header.config)
    for name in fixed_by_checkpoint(config):
        before, now = (resolved(one_config, name) for one_config in (written, config))
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
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no whole checkpoint ({error}); delete it to start anew, or name another"
            " file"
        ) from None


def _digest(tensors: Mapping[str, Tensor]) -> str:
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
