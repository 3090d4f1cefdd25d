"""What `make` would do to set the environment up; nothing is installed."""

import subprocess

from tests.conftest import ROOT


def planned(*words):
    """Return the lines that make would run for a new environment."""
    process = subprocess.run(
        ["make", "--dry-run", "--always-make", *words, ".venv/.ready"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def installing(lines):
    """Return the command lines of pip, first that for torch, then that for everything else."""
    first, second = (line.split(" | ")[0] for line in lines if "pip install" in line)
    return first.split(), second.split()


def test_an_index_for_torch_is_handed_to_pip_for_torch_alone():
    torch, rest = installing(planned("TORCH_INDEX=https://index.example/cpu"))
    assert torch[torch.index("--index-url") + 1] == '"https://index.example/cpu"'
    assert {word.split("==")[0] for word in torch if "==" in word} == {"torch", "torchvision"}
    assert "--no-deps" in torch  # what torch needs is not in every such index
    assert not {"--index-url", "--no-deps"} & set(rest)


def test_without_one_torch_comes_from_the_usual_index_and_pinned():
    torch, rest = installing(planned())
    assert not {"--index-url", "--no-deps"} & {*torch, *rest}
    assert any(word.startswith("torch==") for word in torch)
    assert "constraints.txt" in torch and "constraints.txt" in rest


def test_the_path_of_a_python_may_have_a_blank():
    lines = planned("PYTHON=/some where/python")
    assert '"/some where/python" -m venv .venv' in lines
