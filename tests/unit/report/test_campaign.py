"""A campaign is measured at one commit, and what it publishes appears together or not at all."""

import subprocess

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def report():
    """Return the modules of the report, which are programs and lie in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "report")
        import campaign
        import replacement
    return campaign, replacement


@pytest.fixture
def checkout(tmp_path):
    """Return a folder that git keeps, with a file and a figure."""
    (tmp_path / "figures").mkdir()
    for name in ("step.py", "figures/loss.svg"):
        (tmp_path / name).write_text("committed")
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    return tmp_path


def test_a_file_that_has_changed_is_named_but_not_what_a_build_writes(report, checkout):
    campaign, _ = report
    campaign.require_clean(checkout)
    (checkout / "figures" / "loss.svg").write_text("new")
    campaign.require_clean(checkout)
    (checkout / "step.py").write_text("changed")
    with pytest.raises(ValueError, match=r"at one commit, and step\.py has changes; commit"):
        campaign.require_clean(checkout)


def test_what_lies_in_no_checkout_is_not_refused(report, tmp_path):
    report[0].require_clean(tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Return a published folder, a folder of figures, and a folder with new files for both."""
    published, figures, new = (tmp_path / name for name in ("published", "figures", "new"))
    for folder in (published / "notebooks", figures, new / "notebooks", new / "figures"):
        folder.mkdir(parents=True)
    for file in ("nnpar.html", "notebooks/00.ipynb"):
        (published / file).write_text("old")
        (new / file).write_text("new")
    (published / "notebooks" / "gone.ipynb").write_text("old")
    for file in (figures / "loss.svg", figures / "other.svg"):
        file.write_text("old")
    (new / "figures" / "loss.svg").write_text("new")
    return published, figures, new


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "new" not in path.relative_to(folder).parts
    }


def files_for(published, figures, new):
    article = {"nnpar.html": new / "nnpar.html", "notebooks": new / "notebooks"}
    return {published: article, figures: {"": new / "figures"}}


def test_folders_get_their_new_files_together(report, folders):
    _, replacement = report
    replacement.replace_together(files_for(*folders))
    assert contents(folders[0].parent) == {
        "figures/loss.svg": "new",
        "figures/other.svg": "old",
        "published/nnpar.html": "new",
        "published/notebooks/00.ipynb": "new",
    }
    assert {path.name for path in folders[0].parent.iterdir()} == {"figures", "new", "published"}


def test_where_a_file_is_missing_no_folder_changes(report, folders):
    _, replacement = report
    before = contents(folders[0].parent)
    files = files_for(*folders)
    files[folders[1]] = {"": folders[2] / "no-figures"}
    with pytest.raises(FileNotFoundError):
        replacement.replace_together(files)
    assert contents(folders[0].parent) == before


def test_where_a_folder_cannot_be_renamed_the_others_come_back(report, folders):
    _, replacement = report
    before = contents(folders[0].parent)
    in_the_way = folders[1].with_name(".figures.old")
    in_the_way.write_text("a file, which no folder can replace")
    with pytest.raises(OSError, match=r"\.figures\.old"):
        replacement.replace_together(files_for(*folders))
    in_the_way.unlink()
    assert contents(folders[0].parent) == before
