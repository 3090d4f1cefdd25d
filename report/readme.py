"""The numbers that README.md, cluster/README.md and the teachers' page repeat, written there from
the records.

    python report/readme.py

Each text stands between two comments, which name it, and nothing else of a file is changed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

REPORT = Path(__file__).resolve().parent
ROOT = REPORT.parent
RESULTS = "results/mnist-full"
WIDTH = 125
SHOWN = ("doubling", "two-cores", "larger")  # answers of the abstract, below the ladder's
PARTS = re.compile(
    r"(.*<!-- from the records[^>]*-->)\n(.*)\n(<!-- end of what is from the records -->.*)",
    re.DOTALL,
)


def main() -> int:
    """Write all texts into their files."""
    os.chdir(REPORT)
    for name, text in texts().items():
        put(ROOT / name, text)
    return 0


def texts() -> dict[str, str]:
    """Return the text of each file, by its path in the project."""
    return {
        "README.md": results(),
        "cluster/README.md": predictions(),
        "notebooks/teaching.ipynb": for_teachers(),
    }


def results() -> str:
    """Return the main results as a list in Markdown."""
    import abstract
    import headlines
    from chapter import Chapter

    with tempfile.TemporaryDirectory() as figures:
        chapter = Chapter(RESULTS, figures)
        _, answers = abstract.answers(chapter)
        return in_markdown(headlines.sentences(chapter), answers)


def in_markdown(claims: Mapping[str, str], answers: Mapping[str, str]) -> str:
    """Return the sentence of the ladder and the answers that are shown, as a list."""
    sentences = [claims["ladder"], *(answers[name] for name in SHOWN)]
    lists = textwrap.TextWrapper(WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(map(lists.fill, sentences))


def predictions() -> str:
    """Return the table of predictions for other machines, and what it assumes."""
    command = [sys.executable, str(ROOT / "cluster" / "predict.py")]
    process = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return process.stdout.strip()


def for_teachers() -> str:
    """Return the tables of results that a teacher may expect."""
    import expected
    from chapter import Chapter

    with tempfile.TemporaryDirectory() as figures:
        return expected.results(Chapter(RESULTS, figures))


def put(file: Path, text: str) -> None:
    """Replace the text between a file's two comments, which a notebook has in one of its cells.

    A file without them is a ValueError.
    """
    if file.suffix != ".ipynb":
        file.write_text(_replaced(file.read_text(), text))
        return
    notebook = json.loads(file.read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    position = next((i for i, source in enumerate(sources) if PARTS.fullmatch(source)), 0)
    lines = _replaced(sources[position], text).splitlines(keepends=True)
    notebook["cells"][position]["source"] = lines
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _replaced(contents: str, text: str) -> str:
    before, _, after = split(contents)
    return f"{before}\n{text}\n{after}"


def split(contents: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the two comments, which are kept outside."""
    parts = PARTS.fullmatch(contents)
    if parts is None:
        raise ValueError("the file has no comments `from the records`; put them back")
    return parts[1], parts[2], parts[3]


if __name__ == "__main__":
    sys.exit(main())
