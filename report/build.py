"""Run the notebooks with papermill, render the report with Sphinx, and say where it lies."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import publish

from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import NATIVE_STRATEGIES
from nnpar_lib.config.training import DATASETS
from nnpar_lib.datasets import files as data_files
from nnpar_lib.launch.notebook import PRESETS
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.records.provenance import num_cores, source_sha256
from nnpar_lib.records.store import load

REPORT = Path(__file__).resolve().parent
ROOT = REPORT.parent
DEFAULT_FOLDER = REPORT / "_build"
# in the order in which they run, each with its parameter that takes the number of cores, if it has
# one
NOTEBOOKS = {
    "00_check_your_machine": "num_ranks",
    "01_train_the_serial_baseline": "max_threads",
    "02_train_with_data_parallelism": "num_ranks",
    "03_train_with_model_parallelism": "num_ranks",
    "04_find_the_scaling_regimes": None,
    "05_compare_data_and_model_parallelism": "num_ranks",
    "06_use_the_gpu_and_precision": "num_ranks",
    "07_compare_with_cpp": "num_ranks",
    "08_demo": "num_ranks",
    "09_scale_over_nodes": "num_ranks",
    "10_build_an_all_reduce": "num_ranks",
}
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
PAGES = ("limits.md", "notebooks.md", "api.md")
API = "api"  # the folder of pages that Sphinx fills from the docstrings
PUBLISHED = REPORT / "published"  # the last full report, to be read without running anything
# what a build replaces in its folder, and the file that says that a build has made it
REPLACED = (
    *("source", "html", "single", "executed", "figures", "finished"),
    *("nnpar.html", "nnpar.pdf"),
)
MARKER = ".made-by-report-build"
# a kernel complains that it speaks over plain TCP, and that it is interrupted when it is shut down;
# what a cell raises comes by another way
QUIET_KERNEL = ["--log-level=CRITICAL"]


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
    if arguments.preset == "full" and not arguments.scratch:
        publish.require_browser()
    claim(folder)
    if not arguments.from_results:
        data_files.ensure(arguments.dataset)
    if arguments.resume:
        os.environ["NNPAR_RESUME"] = "1"  # the notebooks' engines read it
    build(
        folder,
        arguments.dataset,
        arguments.preset,
        _notebooks_to_run(arguments),
        resume=arguments.resume,
        scratch=arguments.scratch,
    )


def _notebooks_to_run(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.from_results:
        return ()
    return (arguments.only,) if arguments.only else tuple(NOTEBOOKS)


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
    """Run the notebooks that are to be measured anew, and render; the full preset is kept with the
    project.

    To resume is to leave out the notebooks that an earlier build with the same parameters has
    finished, and to keep what it has recorded. `scratch` renders the full preset without touching
    the project's figures and published report.
    """
    is_full, is_kept = preset == "full", preset == "full" and not scratch
    results = (REPORT if is_full else folder) / "results" / f"{dataset}-{preset}"
    executed = PUBLISHED / "notebooks" if is_full else folder / "executed"
    finished = folder / "finished" / f"{dataset}-{preset}"
    if not resume:
        shutil.rmtree(finished, ignore_errors=True)
    for number, name in enumerate(measured, start=1):
        title, kept = (
            f"notebook {number} of {len(measured)}, {name}",
            finished / source_sha256() / f"{name}.ipynb",
        )
        if kept.exists():
            print(f"[{title}] was finished before", flush=True)
        else:
            _set_aside(results, name, folder / "earlier", keep_resumable=resume)
            _execute(
                ROOT / "notebooks" / f"{name}.ipynb",
                kept,
                title,
                parameters(name, dataset, preset, results),
            )
        _publish_notebook(kept, executed)
    source = _lay_out(folder / "source", executed)
    figures = ROOT / "figures" if is_kept else folder / "figures"
    _execute_chapters(
        source,
        {
            "results_folder": os.path.relpath(results, REPORT),
            "figures_folder": os.path.relpath(figures, REPORT),
        },
    )
    _render(source, folder, PUBLISHED if is_kept else folder)


def _render(source: Path, folder: Path, target: Path) -> None:
    """Render the pages into the folder and, at the same time, the article into the target.

    Raises a ValueError where the article cannot be made; the pages are there all the same.
    """
    with ThreadPoolExecutor() as pool:
        pages = pool.submit(publish.render, "html", source, folder / "html")
        article = pool.submit(publish.article, source, folder / "single", target)
    pages.result()
    print(f"the report: {os.path.relpath(folder / 'html' / 'index.html')}")
    for file in article.result():
        print(f"in one piece: {os.path.relpath(file)}")


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
                _execute,
                REPORT / f"{name}.ipynb",
                source / f"{name}.ipynb",
                f"the report, {name}",
                values,
            )
            for name in CHAPTERS
        ]
        for call in calls:
            call.result()


def _publish_notebook(kept: Path, folder: Path) -> None:
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


def parameters(name: str, dataset: str, preset: str, results: Path) -> dict[str, object]:
    """Return the parameters of a notebook."""
    values: dict[str, object] = {
        "dataset": dataset,
        "preset": preset,
        "results_folder": os.path.relpath(results, ROOT / "notebooks"),
    }
    if NOTEBOOKS[name]:
        values[NOTEBOOKS[name]] = max(2, num_cores())
    return values


def _set_aside(results: Path, notebook: str, earlier: Path, *, keep_resumable: bool) -> None:
    """Move a notebook's older records, so that a report shows one run of it and nothing is lost."""
    target = earlier / f"{results.name}-{int(time.time())}"
    for file in results.glob(f"{notebook[:2]}_*"):
        if keep_resumable and (file.suffix != ".jsonl" or _is_resumable(file)):
            continue
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)


def _is_resumable(file: Path) -> bool:
    """Return whether engines would take over all of these records: runs in Python, made by this
    code."""
    return all(
        isinstance(record, RunRecord)
        and record.strategy not in NATIVE_STRATEGIES
        and record.provenance["source_sha256"] == source_sha256()
        for record in load(file)
    )


def _execute(source: Path, target: Path, title: str, values: dict[str, object]) -> None:
    print(f"[{title}] ...", flush=True)
    start, unfinished = time.monotonic(), target.with_suffix(".unfinished.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    executed = papermill.execute_notebook(
        source,
        unfinished,
        parameters=values,
        cwd=source.parent,
        kernel_name="python3",
        progress_bar=sys.stderr.isatty(),
        log_output=False,
        extra_arguments=QUIET_KERNEL,
    )
    if (
        source.parent == REPORT
    ):  # a page to read: what papermill put in front of it is of no interest there
        _hide_parameters(executed, unfinished)
    unfinished.replace(target)
    print(f"[{title}] {time.monotonic() - start:.0f} s", flush=True)


def _hide_parameters(executed: nbformat.NotebookNode, target: Path) -> None:
    for cell in executed.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
    nbformat.write(executed, target)


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
        help="leave the project's figures and published report as they are",
    )
    choice.add_argument(
        "--only", choices=NOTEBOOKS, help="measure this notebook alone; the others' records stay"
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
