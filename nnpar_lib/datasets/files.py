"""The files of mnist and fashion_mnist: found, downloaded and verified before any engine starts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnpar_lib.config import folders
from nnpar_lib.datasets import torchvision_operators

FOLDER_VARIABLE = "NNPAR_DATA"
SUBFOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}
CONNECT_TIMEOUT_SECONDS = 5.0
NUM_CLASSES = 10
IDX_UNSIGNED_BYTE = 0x08  # the third byte of an idx file: the type of its numbers


class DataError(ValueError):
    """A data set is missing or damaged; the message is one line that names the path and the
    remedy."""


@dataclass(frozen=True)
class IdxFile:
    """The name, the dimensions and the MD5 of a file ("" where the MD5 is not known)."""

    name: str
    shape: tuple[int, ...]
    md5: str = ""


def _files(*md5: str) -> tuple[IdxFile, ...]:
    layout = (
        ("train-images-idx3-ubyte", (60_000, 28, 28)),
        ("train-labels-idx1-ubyte", (60_000,)),
        ("t10k-images-idx3-ubyte", (10_000, 28, 28)),
        ("t10k-labels-idx1-ubyte", (10_000,)),
    )
    return tuple(
        IdxFile(name, shape, digest) for (name, shape), digest in zip(layout, md5, strict=True)
    )


FILES = {
    "mnist": _files(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": _files("", "", "", ""),
}


def data_folder() -> Path:
    """Return the folder of the data sets: `NNPAR_DATA`, else the one of `config.folders`.

    Raises DataError where a variable names a home folder that is not known.
    """
    try:
        return folders.named_folder(FOLDER_VARIABLE) or folders.data_folder()
    except ValueError as error:
        raise DataError(str(error)) from None


def ensure(dataset: str) -> None:
    """Make sure that a data set is complete; download it where it is missing.

    Raises DataError where a file is damaged, or is missing and cannot be downloaded. The data set
    digits comes with scikit-learn and needs no file.
    """
    if dataset in FILES and _missing(dataset):
        _download(dataset)
    check(dataset)


def check(dataset: str) -> None:
    """Raise DataError unless every file of a data set is complete; the network is not used."""
    if dataset not in FILES:
        return
    if _missing(dataset):
        raise _missing_error(dataset, "")
    for file in FILES[dataset]:
        path = data_folder() / SUBFOLDERS[dataset] / file.name
        try:
            status = path.stat()
            _verify(path, file, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); make it readable"
            ) from error


def _missing(dataset: str) -> list[str]:
    folder = data_folder() / SUBFOLDERS[dataset]
    return [file.name for file in FILES[dataset] if not (folder / file.name).is_file()]


def _missing_error(dataset: str, reason: str) -> DataError:
    why = f" and cannot be downloaded ({reason})" if reason else ""
    return DataError(
        f"{dataset} is missing from {data_folder()}{why}: no {', '.join(_missing(dataset))}; set"
        f" {FOLDER_VARIABLE} to the folder that holds {SUBFOLDERS[dataset]}/..., or use"
        " dataset=digits, which needs no download"
    )


# A file that was verified is not read again while its size and time stay; errors are not cached.
@functools.cache
def _verify(path: Path, file: IdxFile, size: int, mtime_ns: int) -> None:
    """Raise DataError unless the size, the idx header, and the checksum or the labels are right."""
    header = struct.pack(
        f">4B{len(file.shape)}I", 0, 0, IDX_UNSIGNED_BYTE, len(file.shape), *file.shape
    )
    expected = len(header) + functools.reduce(int.__mul__, file.shape)
    with path.open("rb") as stream:
        content = stream.read(expected)  # not more: a file of a wrong size may be of any size
    if content[:4] != header[:4]:
        raise _damaged(
            path,
            f"starts with {content[:4].hex() or 'nothing'} instead of {header[:4].hex()}: no idx"
            f" file of {len(file.shape)} dimensions",
        )
    if size != expected:
        raise _damaged(path, f"has {size} bytes instead of {expected}")
    if content[: len(header)] != header:
        shape = struct.unpack_from(f">{len(file.shape)}I", content, 4)
        raise _damaged(path, f"holds {_shape(shape)} numbers instead of {_shape(file.shape)}")
    if file.md5 and hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        raise _damaged(path, f"does not have the MD5 {file.md5}: some of its bytes have changed")
    if len(file.shape) == 1 and max(content[len(header) :]) >= NUM_CLASSES:
        raise _damaged(
            path,
            f"holds the label {max(content[len(header) :])}, but classes are 0 to"
            f" {NUM_CLASSES - 1}",
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(
        f"{path} is damaged: it {problem}; delete it and run again to download it, or copy a good"
        " one there"
    )


def _download(dataset: str) -> None:
    """Let torchvision download a data set; it tries several mirrors and verifies checksums."""
    torchvision_operators.declare_missing()
    from torchvision import datasets

    classes = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
    try:
        with _connect_timeout(CONNECT_TIMEOUT_SECONDS):
            classes[dataset](str(data_folder()), download=True)
    except (RuntimeError, OSError, EOFError, http.client.HTTPException) as error:
        raise _missing_error(dataset, _one_line(error)) from error


@contextlib.contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """Limit the wait for a silent network; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
