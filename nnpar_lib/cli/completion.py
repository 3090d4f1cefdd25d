"""`completion`: a script that has a shell complete commands, options, their values and files."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnpar_lib.config.sections import OPTIONS

USE = """\
bash, in ~/.bashrc:                   eval "$(nnpar completion bash)"
zsh, after compinit in ~/.zshrc:      eval "$(nnpar completion zsh)"
tcsh, in ~/.tcshrc, from a file:      source FILE
"""
SHELLS = ("bash", "zsh", "tcsh")
PROGRAM = "nnpar"  # what the shell is to complete; `python -m nnpar_lib` it cannot


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = USE
    parser.add_argument(
        "shell",
        choices=SHELLS,
        metavar="SHELL",
        help=f"one of {', '.join(SHELLS)}",
    )


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell; the parser, a new one of `nnpar`, is changed."""
    import shtab  # ranks, which read these commands too, do without it

    _add_values(parser)
    return str(shtab.complete(parser, shell=shell))


def _add_values(parser: argparse.ArgumentParser) -> None:
    """Say of each argument what it takes: a file, or one of the values of an option of runs."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _add_values(subparser)
        elif action.type is Path:
            kind = shtab.DIRECTORY if action.dest == "folder" else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined]
        elif action.choices is None and action.dest in OPTIONS:
            action.choices = OPTIONS[action.dest].choices or None
