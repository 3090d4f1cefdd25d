"""Where nnpar keeps what it builds and downloads: in the checkout, or in a folder of the user."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

HOME_VARIABLE = "NNPAR_HOME"
CACHE_VARIABLE = "XDG_CACHE_HOME"
CHECKOUT = Path(__file__).resolve().parents[2]  # what holds nnpar_lib: site-packages of a wheel


def home_folder() -> Path:
    """Return the user's folder: NNPAR_HOME, else `nnpar` in XDG_CACHE_HOME or ~/.cache.

    Raises a ValueError where none is set and the user has no home folder.
    """
    if named := _named_home():
        return named
    cache = os.environ.get(CACHE_VARIABLE, "")
    if os.path.isabs(cache):  # another is to be ignored, says the specification of the variable
        return Path(cache, "nnpar")
    try:
        return Path.home() / ".cache" / "nnpar"
    except RuntimeError:
        raise ValueError(
            f"neither HOME nor {HOME_VARIABLE} is set, and the user has no home folder; set"
            f" {HOME_VARIABLE} to a folder for what nnpar builds and downloads"
        ) from None


def build_folder(name: str) -> Path:
    """Return a folder for what is built, which is made: this name in a folder of builds.

    Builds are in NNPAR_HOME where it is set, else in the checkout's `build`, else, where there is
    no checkout or it cannot be written to, in the user's folder, apart for each installation.
    Raises a ValueError where none can be written to.
    """
    if _named_home() is None and is_checkout() and _is_writable(CHECKOUT / "build" / name):
        return CHECKOUT / "build" / name
    installation = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:12]
    folder = home_folder() / f"build-{installation}" / name
    if not _is_writable(folder):
        raise ValueError(
            f"{folder} cannot be written to; set {HOME_VARIABLE} to a folder that can be"
        )
    return folder


def data_folder() -> Path:
    """Return the folder of data sets where no other is named: `data` in the checkout, or else.

    It is in NNPAR_HOME where that is set, and in the user's folder where there is no checkout, or
    one that cannot be written to and holds no data.
    """
    data = CHECKOUT / "data"
    is_usable = data.is_dir() or os.access(CHECKOUT, os.W_OK)
    if _named_home() is None and is_checkout() and is_usable:
        return data
    return home_folder() / "data"


def is_checkout() -> bool:
    """Return whether the library lies in a checkout of the project, not in site-packages."""
    return (CHECKOUT / "pyproject.toml").is_file()


def named_folder(variable: str) -> Path | None:
    """Return the folder that a variable names, `~` replaced; None where it is unset or empty."""
    text = os.environ.get(variable, "")
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:
        raise ValueError(
            f"{variable}={text!r} names a home folder that is not known; give the folder's whole"
            " path"
        ) from None


def _named_home() -> Path | None:
    named = named_folder(HOME_VARIABLE)
    return None if named is None else named.absolute()


def _is_writable(folder: Path) -> bool:
    """Make a folder and return whether a file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
