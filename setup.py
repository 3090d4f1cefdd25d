"""What pyproject.toml cannot say: the wheel carries folders that lie beside the package.

The C++ sources and the notebooks are data of the package `nnpar_lib` in a wheel.
"""

from setuptools import find_packages, setup

CARRIED = {
    "nnpar_lib.cpp": "cpp",
    "nnpar_lib.cpp.src": "cpp/src",
    "nnpar_lib.notebooks": "notebooks",
}

setup(
    packages=[*find_packages(include=["nnpar_lib*"]), *CARRIED],
    package_dir=CARRIED,
    package_data={
        "nnpar_lib": ["py.typed"],
        **{package: ["*.ipynb", "*.txt", "*.cpp", "*.h"] for package in CARRIED},
    },
)
