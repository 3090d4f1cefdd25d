"""What is installed beside the modules, in a wheel or a checkout: notebooks and C++ sources."""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]
RESULTS_OF_A_CHECKOUT = "../report/_build/results"  # the default of every notebook
RESULTS = "results"


def find(name: str) -> Path:
    """Return the folder of this name: a wheel carries it in the package, a checkout beside it.

    Raises a ValueError where there is none.
    """
    for parent in (LIBRARY, LIBRARY.parent):
        if (parent / name).is_dir():
            return parent / name
    raise ValueError(
        f"this installation of nnpar has no folder {name!r}; install it again, from a wheel or"
        " with `pip install .` in a checkout"
    )


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the notebooks of this version into a folder, which is made; return the copies.

    They keep their records in a folder beside them, not where a checkout keeps its own.
    Raises a ValueError where one is there already: what a reader has changed is not replaced.
    """
    sources = sorted(find("notebooks").glob("*.ipynb"))
    targets = [folder / source.name for source in sources]
    present = [target for target in targets if target.exists()]
    if present:
        raise ValueError(f"{present[0]} exists already; name another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in zip(sources, targets, strict=True):
            text = source.read_text(encoding="utf-8")
            target.write_text(text.replace(RESULTS_OF_A_CHECKOUT, RESULTS), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"notebooks cannot be copied to {folder}: {error.strerror}") from None
    return targets
