"""`completion`: what a shell that has read the script offers."""

import shutil
import subprocess

import pytest

from nnpar_lib.cli.commands import COMMANDS
from nnpar_lib.config.sections import OPTIONS
from tests.conftest import run_python


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Return the script of each shell, as a file."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "tcsh"):
        process = run_python("-m", "nnpar_lib", "completion", shell)
        assert process.returncode == 0, process.stderr
        (folder / shell).write_text(process.stdout)
    return folder


def offered_by_bash(script, *words):
    """Return what bash offers for the last of the words, as it calls the script's function."""
    program = f"""
source '{script}'
COMP_WORDS=({" ".join(repr(word) for word in words)})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p nnpar | sed -E 's/.*-F ([^ ]+) .*/\\1/') nnpar "${{COMP_WORDS[-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    process = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert process.stderr == ""
    return set(process.stdout.split())


def test_bash_completes_commands_options_and_their_values(scripts):
    script = scripts / "bash"
    assert offered_by_bash(script, "nnpar", "") >= {command.name for command in COMMANDS}
    assert offered_by_bash(script, "nnpar", "run", "--strat") == {"--strategy"}
    strategies = set(OPTIONS["strategy"].choices)
    assert offered_by_bash(script, "nnpar", "run", "--strategy", "") >= strategies
    pipelines = {name for name in strategies if name.startswith("pipe")}
    assert offered_by_bash(script, "nnpar", "run", "--strategy", "pipe") == pipelines


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("zsh", 'autoload -Uz compinit; compinit -uD; eval "$(cat {0})"; (( $+_comps[nnpar] ))'),
        ("tcsh", "source {0}; complete nnpar"),
    ],
)
def test_other_shells_read_the_script(scripts, shell, words):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    process = subprocess.run(
        [shell, "-f", "-c", words.format(scripts / shell)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_another_shell_is_one_line():
    process = run_python("-m", "nnpar_lib", "completion", "fish")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "'fish' (choose from" in line
