"""Where builds and data are kept, in a checkout and in an installed wheel."""

import os
import pwd
from pathlib import Path

import pytest

from nnpar_lib.config import folders


@pytest.fixture(autouse=True)
def user(monkeypatch, tmp_path):
    """Return the home folder of a user who has set nothing else."""
    for name in ("NNPAR_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """Return a folder that looks like a checkout."""
    folder = tmp_path / "check out"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(folders, "CHECKOUT", folder)
    return folder


@pytest.fixture
def site_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "CHECKOUT", tmp_path / "site-packages")


def test_a_checkout_keeps_what_it_builds_and_downloads(checkout):
    assert folders.build_folder("cpp/one") == checkout / "build/cpp/one"
    assert folders.build_folder("cpp/one").is_dir()
    assert folders.data_folder() == checkout / "data"


def test_a_checkout_that_cannot_be_written_to_uses_the_folder_of_the_user(checkout, user):
    (checkout / "build").touch()  # a file: no folder can be made there, not even by root
    assert folders.build_folder("cpp").is_relative_to(user / ".cache/nnpar")


def test_a_wheel_uses_the_folder_of_the_user(site_packages, user):
    assert folders.data_folder() == user / ".cache/nnpar/data"
    assert folders.build_folder("cpp").is_relative_to(user / ".cache/nnpar")


def test_installations_of_one_user_build_apart(monkeypatch, tmp_path):
    built = set()
    for name in ("one", "two"):
        monkeypatch.setattr(folders, "CHECKOUT", tmp_path / name)
        built.add(folders.build_folder("cpp"))
    assert len(built) == 2


def test_a_cache_folder_is_taken_where_its_path_is_whole(site_packages, monkeypatch, user):
    monkeypatch.setenv("XDG_CACHE_HOME", str(user / "cached"))
    assert folders.home_folder() == user / "cached/nnpar"
    monkeypatch.setenv("XDG_CACHE_HOME", "cached")
    assert folders.home_folder() == user / ".cache/nnpar"


def test_the_named_folder_goes_before_all(checkout, monkeypatch, tmp_path, user):
    monkeypatch.setenv("NNPAR_HOME", "~/kept")
    assert folders.home_folder() == user / "kept"
    assert folders.data_folder() == user / "kept/data"
    assert folders.build_folder("cpp").is_relative_to(user / "kept")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNPAR_HOME", "kept")
    assert folders.home_folder() == tmp_path / "kept"


def test_a_folder_that_cannot_be_written_to_is_named(site_packages, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NNPAR_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set NNPAR_HOME to a folder that can be") as refused:
        folders.build_folder("cpp")
    assert str(tmp_path / "file") in str(refused.value)
    monkeypatch.setenv("NNPAR_HOME", "~nosuchuser/kept")
    with pytest.raises(ValueError, match="NNPAR_HOME='~nosuchuser/kept' names a home folder"):
        folders.build_folder("cpp")


def test_without_any_home_the_remedy_is_named(site_packages, monkeypatch):
    monkeypatch.delenv("HOME")
    assert folders.home_folder() == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/nnpar"

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ValueError, match="neither HOME nor NNPAR_HOME is set"):
        folders.build_folder("cpp")
