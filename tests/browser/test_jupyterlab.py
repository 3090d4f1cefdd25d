"""Notebooks in JupyterLab, in a real browser: Run All, as people do."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import psutil
import pytest

from nnpar_lib.launch.cluster import SESSION_VARIABLE
from tests import solutions
from tests.conftest import ROOT

RUN_SECONDS = 400  # far more than they need, for a machine that is busy
# one repeat of what papermill runs in whole
REPEATS = r"(num_repeats = notebook.choose\(preset, quick=)\d+"
SHORTENED = ("03_train_with_model_parallelism",)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Serve a copy of the notebooks, with fewer runs, in JupyterLab; return address and folder."""
    tmp_path = tmp_path_factory.mktemp("lab")
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    shorten(folder)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "HOME": str(tmp_path),
    }
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_server(f"http://127.0.0.1:{port}/api")
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait(60)


def shorten(folder):
    for name in SHORTENED:
        path = folder / f"{name}.ipynb"
        text, num_replaced = re.subn(REPEATS, r"\g<1>1", path.read_text())
        assert num_replaced == 1, name
        path.write_text(text)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_server(address, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.2)
    raise TimeoutError(f"no server answered at {address} within {seconds} s")


def run_all(page, address, path):
    """Open a notebook, run all of its cells as a person does, save it and return it."""
    page.goto(f"{address}/lab/tree/{path.name}?reset")  # without the tabs of the test before
    page.get_by_text("| Idle").wait_for(
        timeout=60_000
    )  # the indicator says idle before there is a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        page.wait_for_timeout(1000)
        page.keyboard.press("Control+s")
        try:
            notebook = nbformat.read(path, as_version=4)
        except nbformat.reader.NotJSONError:  # the server is in the middle of writing it
            continue
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if all(cell.execution_count for cell in cells) or errors(notebook):
            return notebook
    raise TimeoutError(f"{path.name} did not come to its end within {RUN_SECONDS} s")


def errors(notebook):
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]


def engines_of(folder):
    """Return the processes that work for notebooks of this folder."""
    return [
        process
        for process in psutil.process_iter(["cwd", "environ"])
        if SESSION_VARIABLE in (process.info["environ"] or {})
        and str(folder) in (process.info["cwd"] or "")
    ]


@pytest.mark.timeout(RUN_SECONDS + 120)
@pytest.mark.parametrize(
    "name",
    [
        "02_train_with_data_parallelism",
        "03_train_with_model_parallelism",
        "08_demo",
    ],
)
def test_run_all_shows_plots_and_leaves_no_error_and_no_engine(page, lab, name):
    address, folder = lab
    notebook = run_all(page, address, folder / f"{name}.ipynb")
    assert errors(notebook) == []
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert page.locator(".jp-RenderedImage img").count() > 0
    own = (address, address.replace("http", "ws"), "data:", "blob:")
    assert [url for url in page.asked if not url.startswith(own)] == []
    assert engines_of(folder) == []


def write_exercise(path):
    """Write a notebook with one of 02's exercises: filled in wrongly, then rightly."""
    right = next(source for source in solutions.cells("02", "solution") if "Allreduce" in source)
    right = right.replace("def step_solution", "def step")
    mean = right.replace('reduction="sum"', 'reduction="mean"')
    mean = mean.replace("part.num_global_examples", "communicator.size")
    check = "\n\n\nexercises.check_mean_over_parts(step)"
    sources = [*solutions.cells("02", solutions.IMPORTS), mean + check, right + check]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


@pytest.mark.timeout(RUN_SECONDS + 120)
def test_an_exercise_is_told_what_is_wrong_and_then_that_it_is_right(page, lab):
    address, folder = lab
    write_exercise(folder / "exercise.ipynb")
    notebook = run_all(page, address, folder / "exercise.ipynb")
    assert errors(notebook) == []
    _, wrong, right = (cell["outputs"] for cell in notebook.cells)
    assert "the mean of each rank's part counts the same" in wrong[-1]["data"]["text/plain"]
    assert right[-1]["data"]["text/plain"].startswith("Right: equal to serial training")
    assert engines_of(folder) == []


@pytest.mark.timeout(120)
def test_the_start_page_leads_to_a_notebook_and_a_notebook_to_the_glossary(page, lab):
    address, _ = lab
    page.goto(f"{address}/lab/tree/index.ipynb?reset")
    page.get_by_role("link", name="00_check_your_machine").click()
    page.get_by_role("tab", name="00_check_your_machine.ipynb").wait_for()
    page.locator(".jp-NotebookPanel:visible").get_by_role("link", name="glossary").click()
    page.get_by_role("tab", name="glossary.ipynb").wait_for()
    page.get_by_role("heading", name="Glossary").first.wait_for()
