"""Run the notebooks with papermill, render the report with Sphinx, and say where it lies."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import nbformat
import publish
from campaign import BENCH, NOTEBOOKS, Campaign, require_clean
from execution import execute
from replacement import replace_together

from nnpar_lib.config import RunConfig
from nnpar_lib.config.training import DATASETS
from nnpar_lib.datasets import files as data_files
from nnpar_lib.launch.notebook import PRESETS
from nnpar_lib.records.provenance import num_cores

REPORT = Path(__file__).resolve().parent
ROOT = REPORT.parent
DEFAULT_FOLDER = REPORT / "_build"
# pages to read beside the notebooks, in their folder, which compute nothing
READING = ("index", "glossary", "teaching")
# notebooks in this folder: what they show comes from records
CHAPTERS = (
    "index",
    "data_parallelism",
    "model_parallelism",
    "regimes",
    "precision",
    "cpp",
    "machines",
    "claims",
)
LOOKS = ("conf.py", "style.css", "article.css", "references.bib")
PAGES = ("notebooks.md", "api.md")
API = "api"  # the folder of pages that Sphinx fills from the docstrings
FIGURES = ROOT / "figures"
PUBLISHED = REPORT / "published"  # the last full report, to be read without running anything
# what a build replaces in its folder, and the file that says that a build has made it
REPLACED = (
    *("source", "html", "single", "executed", "figures", "finished"),
    *("nnpar.html", "nnpar.pdf"),
)
MARKER = ".made-by-report-build"


def main() -> int:
    """Build the report; what the user can mend is one line on standard error and status 2."""
    arguments = _parser().parse_args()
    try:
        if arguments.page:
            render_page(arguments.page)
        else:
            _build_as_asked(arguments)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0


def _build_as_asked(arguments: argparse.Namespace) -> None:
    """Check what was asked for before anything is measured or deleted, then build."""
    RunConfig(dataset=arguments.dataset)
    folder = arguments.folder.resolve()
    if arguments.preset == "full":
        publish.require_browser()
        if not (arguments.scratch or arguments.from_results):
            require_clean()
    claim(folder)
    if not arguments.from_results:
        data_files.ensure(arguments.dataset)
    if arguments.resume:
        os.environ["NNPAR_RESUME"] = "1"  # the notebooks' engines read it
    build(
        folder,
        arguments.dataset,
        arguments.preset,
        _to_measure(arguments),
        resume=arguments.resume,
        scratch=arguments.scratch,
    )


def _to_measure(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.from_results:
        return ()
    if arguments.only:
        return (arguments.only,)
    return (*NOTEBOOKS, BENCH) if arguments.preset == "full" else tuple(NOTEBOOKS)


def claim(folder: Path) -> None:
    """Mark a folder as one in which builds replace what builds have made.

    Raises a ValueError where a build would replace something that no build has made there. The
    project's own folder for builds needs no mark.
    """
    marker = folder / MARKER
    in_the_way = [name for name in REPLACED if (folder / name).exists()]
    if in_the_way and folder != DEFAULT_FOLDER and not marker.exists():
        raise ValueError(
            f"{folder / in_the_way[0]} was not made by a build, which would replace it; give an"
            " empty folder, or one that holds a build"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise ValueError(
            f"cannot build in {folder}: {error.strerror}; give another folder"
        ) from None


def build(
    folder: Path,
    dataset: str,
    preset: str,
    measured: Sequence[str],
    *,
    resume: bool = False,
    scratch: bool = False,
) -> None:
    """Measure what is to be measured anew, and render; the full preset is kept with the project.

    All pages, figures and executed notebooks are made in the folder first, and those of the full
    preset are then published together. `scratch` publishes nothing, and keeps new records in the
    folder as well.
    """
    is_full = preset == "full"
    results = REPORT / "results" / f"{dataset}-{preset}"
    if not is_full or (scratch and measured):
        results = _results_in(folder, results)
    campaign = Campaign(
        folder=folder, dataset=dataset, preset=preset, results=results, resume=resume
    )
    notebooks = campaign.measure(measured)
    executed = folder / "executed"
    if is_full:  # those that are not measured anew are shown as they were published
        shutil.rmtree(executed, ignore_errors=True)
        shutil.copytree(PUBLISHED / "notebooks", executed)
    for notebook in notebooks:
        _strip_notebook(notebook, executed)
    source = _lay_out(folder / "source", executed)
    shutil.rmtree(folder / "figures", ignore_errors=True)  # of an earlier build, perhaps of others
    _execute_chapters(
        source,
        {
            "results_folder": os.path.relpath(results, REPORT),
            "figures_folder": os.path.relpath(folder / "figures", REPORT),
        },
    )
    article = _render(source, folder)
    if is_full and not scratch:
        _publish(folder, article, executed)
        if dataset == "mnist":  # the numbers of README.md and cluster/README.md
            subprocess.run([sys.executable, str(REPORT / "readme.py")], check=True)


def _results_in(folder: Path, kept: Path) -> Path:
    """Return the folder of records within that of a build; the project's records, if it keeps any
    of this data set and preset, are copied there first."""
    results = folder / "results" / kept.name
    if kept.exists() and not results.exists():
        shutil.copytree(kept, results)
        for file in kept.parent.glob("*.jsonl"):
            shutil.copy(file, results.parent)
    return results


def _publish(folder: Path, article: Sequence[Path], executed: Path) -> None:
    """Replace the project's report, its executed notebooks and its figures, all or none."""
    report = {file.name: file for file in article}
    replace_together(
        {PUBLISHED: {**report, "notebooks": executed}, FIGURES: {"": folder / "figures"}}
    )
    print(f"published: {os.path.relpath(PUBLISHED)}, {os.path.relpath(FIGURES)}")


def _render(source: Path, folder: Path) -> list[Path]:
    """Render the pages and, at the same time, the article into the folder; return its files.

    Raises a ValueError where the article cannot be made; the pages are there all the same.
    """
    with ThreadPoolExecutor() as pool:
        pages = pool.submit(publish.render, "html", source, folder / "html")
        article = pool.submit(publish.article, source, folder / "single", folder)
    pages.result()
    print(f"the report: {os.path.relpath(folder / 'html' / 'index.html')}")
    for file in article.result():
        print(f"in one piece: {os.path.relpath(file)}")
    return article.result()


def _lay_out(source: Path, executed: Path) -> Path:
    """Return the folder of all pages: notebooks as they went where they were executed, else as they
    are."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    for name in NOTEBOOKS:
        notebook = executed / f"{name}.ipynb"
        shutil.copy(
            notebook if notebook.exists() else ROOT / "notebooks" / notebook.name,
            source / "notebooks",
        )
    for name in READING:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", source / "notebooks")
    for name in (*LOOKS, *PAGES):
        shutil.copy(REPORT / name, source / name)
    shutil.copytree(REPORT / API, source / API)
    return source


def _execute_chapters(source: Path, values: dict[str, object]) -> None:
    """Execute all chapters, as many at a time as there are cores: nothing is measured in them."""
    with ProcessPoolExecutor(num_cores()) as pool:
        calls = [
            pool.submit(
                execute,
                REPORT / f"{name}.ipynb",
                source / f"{name}.ipynb",
                f"the report, {name}",
                values,
            )
            for name in CHAPTERS
        ]
        for call in calls:
            call.result()


def _strip_notebook(kept: Path, folder: Path) -> None:
    """Keep an executed notebook without the paths and times that papermill notes."""
    notebook = nbformat.read(kept, as_version=4)
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / kept.name)


def render_page(executed: Path) -> None:
    """Render one executed notebook as it is, into a folder beside it that has its name.

    Raises a ValueError where there is no such notebook.
    """
    if executed.suffix != ".ipynb" or not executed.is_file():
        raise ValueError(f"there is no notebook {executed}; name one that papermill has executed")
    with tempfile.TemporaryDirectory() as folder:
        source, html = Path(folder, "source"), executed.with_suffix("")
        source.mkdir()
        for name in LOOKS:
            shutil.copy(REPORT / name, source)
        notebook = nbformat.read(executed, as_version=4)
        unlink_notebooks(notebook)
        nbformat.write(notebook, source / "index.ipynb")
        publish.render(
            "html", source, Path(folder, "html")
        )  # with more beside it than a reader wants to see
        shutil.copytree(
            Path(folder, "html"), html, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*")
        )
    print(f"the page: {html / 'index.html'}")


def unlink_notebooks(notebook: nbformat.NotebookNode) -> None:
    """Turn links to other notebooks into their text, for a page that has no others beside it."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^\]]*)\]\([\w]+\.ipynb(#[\w-]*)?\)", r"\1", cell.source)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="digits", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--preset", default="quick", choices=PRESETS)
    parser.add_argument(
        "--folder",
        type=Path,
        default=DEFAULT_FOLDER,
        help="where to build (default: report/_build)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help=(
            "go on with a build that was cut off: finished notebooks "
            "and recorded runs are not measured again"
        ),
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--from-results", action="store_true", help="render the records at hand without measuring"
    )
    parser.add_argument(
        "--scratch",
        action="store_true",
        help="leave the project's records, figures and published report as they are",
    )
    choice.add_argument(
        "--only",
        choices=(*NOTEBOOKS, BENCH),
        help="measure this notebook, or the benchmarks, alone; the others' records stay",
    )
    choice.add_argument(
        "--page",
        type=Path,
        metavar="NOTEBOOK",
        help=(
            "run nothing: render this executed notebook alone, into "
            "a folder beside it that has its name"
        ),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
