"""What pyproject.toml cannot say: the wheel carries folders that lie beside the package.

The C++ sources and the notebooks are data of the package `nnpar_lib` in a wheel.
"""

from pathlib import Path

from setuptools import find_packages, setup

CARRIED = ("cpp", "cpp/src", "notebooks")


def name_of(folder: str) -> str:
    return "nnpar_lib." + folder.replace("/", ".")


setup(
    packages=[*find_packages(include=["nnpar_lib*"]), *map(name_of, CARRIED)],
    package_dir={name_of(folder): folder for folder in CARRIED},
    package_data={
        "nnpar_lib": ["py.typed"],
        **{name_of(folder): ["*.ipynb", "*.txt", "*.cpp", "*.h"] for folder in CARRIED},
    },
)
