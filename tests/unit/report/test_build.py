"""Where the report is built: nothing is replaced but what a build has made."""

import importlib.util

import nbformat
import pytest

from tests.conftest import ROOT, run_python


@pytest.fixture(scope="module")
def build():
    """Return the module `report/build.py`, which is a program and lies in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "report")
        spec = importlib.util.spec_from_file_location("report_build", ROOT / "report" / "build.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    kept = tmp_path / "html" / "my-page.html"
    kept.parent.mkdir()
    kept.write_text("mine")
    process = run_python("report/build.py", "--from-results", "--folder", tmp_path, timeout=60)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1 and "html was not made by a build" in process.stderr
    assert kept.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["html"]


def test_without_a_browser_the_full_report_is_refused_before_anything_is_measured(tmp_path):
    process = run_python(
        *("report/build.py", "--dataset", "mnist", "--preset", "full", "--folder", tmp_path),
        PATH=str(tmp_path),
        timeout=60,
    )
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.count("\n") == 1 and "install Chromium" in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["source", "single", "figures", "nnpar.pdf"])
def test_whatever_a_build_would_replace_is_in_the_way(build, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"{name} was not made by a build"):
        build.claim(tmp_path)


def test_a_folder_of_an_earlier_build_is_built_in_again(build, tmp_path):
    build.claim(tmp_path)
    (tmp_path / "html").mkdir()
    build.claim(tmp_path)


def test_what_is_no_folder_is_refused(build, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot build in .*file: File exists; give another"):
        build.claim(tmp_path / "file")


def test_a_page_alone_keeps_the_words_of_links_to_notebooks_that_are_not_beside_it(build):
    text = (
        "each [rank](glossary.ipynb#rank), see [05](05_compare.ipynb) and [a site](https://x.org)"
    )
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("a[1](b.ipynb)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    build.unlink_notebooks(notebook)
    assert notebook.cells[0].source == "each rank, see 05 and [a site](https://x.org)"
    assert notebook.cells[1].source == "a[1](b.ipynb)"
