"""The program in C++, built once a session: as it is used, without MPI, and with sanitizers."""

import pytest

from nnpar_lib.launch import native

BUILDS = {
    "release": (),
    "serial": ("-DNNPAR_MPI=OFF", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"),
    "sanitized": ("-DNNPAR_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug"),
}


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Return a function that gives the program of a kind; a warning of the compiler is an error."""
    folders = {}

    def built(kind):
        folder = folders.setdefault(kind, tmp_path_factory.getbasetemp() / f"cpp-{kind}")
        return native.build(folder, BUILDS[kind])

    return built
