"""Builds the program in C++, once for each source, compiler, MPI and machine: python -m
nnpar_lib.launch.native_build."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path

from nnpar_lib.launch import environment

LIBRARY = Path(__file__).resolve().parents[1]
SOURCE = next(  # a wheel carries it in the package, a checkout beside it
    (folder / "cpp" for folder in (LIBRARY, LIBRARY.parent) if (folder / "cpp").is_dir()),
    LIBRARY.parent / "cpp",
)
PROGRAM = "nnpar"
STAMP = "built-from"  # holds a digest of all that the program was built from
LOCK = ".lock"
CACHE_FILE = "CMakeCache.txt"
NUM_QUOTED_CHARACTERS = 2000


def build(folder: Path | None = None, options: tuple[str, ...] = ()) -> Path:
    """Return the program, built in `folder` unless it is there and up to date.

    Without a folder it is `build_folder("cpp")`. `options` are CMake's, such as -DNNPAR_MPI=OFF.
    Processes that build at the same time wait for the first of them. Raises a ValueError that
    quotes the tools where something is missing or does not compile.
    """
    if not SOURCE.is_dir():
        raise ValueError(
            f"there is no C++ source at {SOURCE}: run from a checkout of the project (pip install"
            " -e .)"
        )
    folder = folder or build_folder("cpp")
    digest = _digest(options)
    if _is_built(folder, digest):
        return folder / PROGRAM
    with locked(folder):
        if not _is_built(folder, digest):  # another process may have built it meanwhile
            _run_cmake(folder, options)
            (folder / STAMP).write_text(digest)
    return folder / PROGRAM


def build_folder(name: str) -> Path:
    """Return a folder for what is made here: in the checkout, or in the user's cache.

    The user's cache is taken where the checkout cannot be written to, and where there is none.
    """
    checkout = LIBRARY.parent
    key = hashlib.sha256(str(checkout).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    temporary = Path(tempfile.gettempdir(), f"nnpar-{os.getuid()}")
    parents = [cache / "nnpar" / key, temporary / key]
    if SOURCE.parent == checkout:
        parents.insert(0, checkout / "build")
    for parent in parents:
        with contextlib.suppress(OSError):
            folder = parent / name
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and _is_writable(folder):
                return folder
    raise ValueError(
        f"none of {', '.join(map(str, parents))} can be written to; give XDG_CACHE_HOME a folder"
        " in which the program in C++ can be built"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_tool(name: str) -> str:
    """Return the path of a tool, this Python environment's before others."""
    beside_python = Path(sys.executable).with_name(name)
    path = str(beside_python) if os.access(beside_python, os.X_OK) else shutil.which(name)
    if path is None:
        raise ValueError(
            f"{name} is missing, which builds the program in C++; install it with `pip install"
            f" {name}`"
        )
    return path


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _is_built(folder: Path, digest: str) -> bool:
    try:
        return (folder / STAMP).read_text() == digest and os.access(folder / PROGRAM, os.X_OK)
    except OSError:
        return False


def _run_cmake(folder: Path, options: tuple[str, ...]) -> None:
    """Configure and build; a cache of CMake's would keep the compiler and MPI of an earlier one."""
    for name in (STAMP, CACHE_FILE):
        (folder / name).unlink(missing_ok=True)
    ninja = f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"
    arguments = ["-S", str(SOURCE), "-B", str(folder), "-G", "Ninja", ninja]
    _run_tool("cmake", *arguments, *_settings(), *options)
    _run_tool("cmake", "--build", str(folder))


def _settings() -> list[str]:
    """Return the options that name the MPI, and pip's OpenBLAS where it is installed."""
    settings = [f"-DCMAKE_PREFIX_PATH={sys.prefix}", f"-DMPI_CXX_COMPILER={_mpi_compiler()}"]
    spec = util.find_spec("scipy_openblas32")
    if spec is not None and spec.origin:
        settings.append(f"-DNNPAR_OPENBLAS={Path(spec.origin).parent}")
    return settings


def _mpi_compiler() -> Path:
    return Path(environment.mpiexec_command()[0]).with_name("mpicxx")


@functools.cache
def _digest(options: tuple[str, ...]) -> str:
    """Return a digest of all that makes the program: source, settings, compilers, processor."""
    digest = hashlib.sha256(repr((*_settings(), *options, _cpu_flags())).encode())
    for path in sorted([SOURCE / "CMakeLists.txt", *(SOURCE / "src").iterdir()]):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for tool in (os.environ.get("CXX") or "c++", str(_mpi_compiler()), "cmake", "ninja"):
        digest.update(_identity(tool).encode())
    with contextlib.suppress(metadata.PackageNotFoundError):
        digest.update(metadata.version("scipy-openblas32").encode())
    return digest.hexdigest()


def _identity(tool: str) -> str:
    """Return what changes when another version of a tool is installed, without running it."""
    path = shutil.which(tool)
    if path is None:
        return f"{tool}: none"
    status = os.stat(path)
    return f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"


def _cpu_flags() -> str:
    """Return the instructions that this processor has: the program is built for all of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _run_tool(name: str, *arguments: str) -> None:
    command = [find_tool(name), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        output = (process.stdout + process.stderr)[-NUM_QUOTED_CHARACTERS:]
        raise ValueError(f"the program in C++ cannot be built; {name} says: {output}")


def main() -> int:
    """Build the program and print where it is; the versions of its tools are pip's."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        print(f"OpenBLAS {metadata.version('scipy-openblas32')} of pip")
    print(os.path.relpath(build()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
