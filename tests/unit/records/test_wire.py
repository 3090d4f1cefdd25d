"""What a rank says last arrives once, and in order."""

import pytest

from nnpar_lib.config.environment import LAST_WORDS_VARIABLE
from nnpar_lib.records.wire import last_words, leave_last_words


def test_last_words_lie_in_the_folder_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv(LAST_WORDS_VARIABLE, str(tmp_path))
    for text in ("first", "second", "first"):
        leave_last_words(text)
    assert last_words(str(tmp_path)) == ["first", "second"]


@pytest.mark.parametrize("folder", [None, "/nosuch"])
def test_without_a_folder_they_are_printed(folder, monkeypatch, capfd):
    monkeypatch.delenv(LAST_WORDS_VARIABLE, raising=False)
    if folder is not None:
        monkeypatch.setenv(LAST_WORDS_VARIABLE, folder)
    leave_last_words("nnpar: the end")
    assert capfd.readouterr().err == "nnpar: the end\n"
