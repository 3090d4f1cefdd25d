"""The commands of `python -m nnpar_lib`, and the parser of its arguments."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nnpar_lib import __version__
from nnpar_lib.cli import completion, mpi, verify
from nnpar_lib.cli import run as shell
from nnpar_lib.cli.options import (
    add_bench_options,
    add_gpu_options,
    add_merge_options,
    add_regimes_options,
    add_run_options,
    add_survey_options,
)
from nnpar_lib.config import RunConfig
from nnpar_lib.config.usage import EXIT_STATUSES, USAGE_STATUS
from nnpar_lib.launch import installed_files, preflight
from nnpar_lib.records import outputs, store
from nnpar_lib.records.provenance import package_versions

MODULE = "python -m nnpar_lib"
TRAINING = "train and measure"


@dataclass(frozen=True)
class Command:
    """A command: its name, a line of help, what adds its options, what it does, and its group."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    group: str = "this installation"


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of three dozen options around it."""

    def error(self, message: str) -> NoReturn:
        """End with the status of wrong use."""
        shell.complain(f"{message}; see {self.prog} --help")
        raise SystemExit(USAGE_STATUS)


class ProgramParser(OneLineParser):
    """The parser of the whole program, whose help shows commands in groups, and exit statuses."""

    def format_help(self) -> str:
        """Return the help."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, lines in _help_sections().items():
            formatter.start_section(title)
            formatter.add_arguments([_HelpLine(*line) for line in lines])
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments(action for action in self._actions if action.option_strings)
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


class _HelpLine(argparse.Action):
    """A line of help that is no argument: a name and a text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__([], name, help=text)


def _help_sections() -> dict[str, list[tuple[str, str]]]:
    """Return the names and texts of commands and exit statuses under their titles."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for command in COMMANDS:
        sections.setdefault(command.group, []).append((command.name, command.help))
    sections["records"] = [(f"results {MERGE.name}", MERGE.help)]
    sections["exit status"] = list(EXIT_STATUSES.items())
    return sections


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments, `run` among them: the function that does the command.

    An unknown option ends the process with one line that names the nearest option.
    """
    program = completion.PROGRAM if Path(sys.argv[0]).name == completion.PROGRAM else MODULE
    arguments, unknown = _parser(program).parse_known_args(words)
    if unknown:
        arguments.parser.error(_describe_unknown(unknown[0], arguments))
    return arguments


class _Version(argparse.Action):
    """Prints the versions; which MPI that is, is looked up only then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print and end."""
        print(f"nnpar {__version__}")
        for package in ("torch", "mpi4py"):
            print(f"{package} {package_versions().get(package, 'is missing')}")
        print(mpi.version())
        parser.exit()


def _parser(program: str) -> ProgramParser:
    parser = ProgramParser(
        prog=program,
        description="The runs of the notebooks, from a shell or a batch job.",
        epilog="`COMMAND --help` explains the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="name nnpar, torch and MPI, and end")
    parser.set_defaults(run=_print_help, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=OneLineParser)
    for command in COMMANDS:
        _add(commands, command)
    results = commands.add_parser("results", help="collect records", allow_abbrev=False)
    results.set_defaults(run=_print_help, parser=results)
    _add(results.add_subparsers(metavar="COMMAND"), MERGE)
    return parser


def _add(commands: argparse._SubParsersAction[OneLineParser], command: Command) -> None:
    parser = commands.add_parser(command.name, help=command.help, allow_abbrev=False)
    command.add_options(parser)
    parser.set_defaults(run=command.run, parser=parser)


def _describe_unknown(word: str, arguments: argparse.Namespace) -> str:
    """Name an option that does not exist and the one that was probably meant."""
    options = [
        "--" + name.replace("_", "-") for name in vars(arguments) if name not in ("run", "parser")
    ]
    near = difflib.get_close_matches(word.split("=", maxsplit=1)[0], options, n=1)
    return f"unknown option {word!r}" + (f" (did you mean {near[0]}?)" if near else "")


def _print_help(arguments: argparse.Namespace) -> int:
    arguments.parser.print_help()
    return 0


# A rank that trains has no use for what the experiments import, so each command imports its own.


def _bench(arguments: argparse.Namespace) -> int:
    _check(RunConfig(dataset=arguments.dataset), arguments.out)
    from nnpar_lib.experiments import bench

    return bench.run(arguments)


def _gpu(arguments: argparse.Namespace) -> int:
    _check(RunConfig(dataset=arguments.dataset, device="cuda"), arguments.out)
    from nnpar_lib.experiments import gpu

    return gpu.run(arguments)


def _regimes(arguments: argparse.Namespace) -> int:
    from nnpar_lib.experiments import regimes_study

    return regimes_study.run(arguments)


def _survey(arguments: argparse.Namespace) -> int:
    from nnpar_lib.experiments.survey import survey

    return survey.run(arguments)


def _sweep_speed(arguments: argparse.Namespace) -> int:
    _check(RunConfig(dataset=arguments.dataset), arguments.out)
    from nnpar_lib.experiments import sweep_speed

    return sweep_speed.run(arguments)


def _copy_notebooks(arguments: argparse.Namespace) -> int:
    copies = installed_files.copy_notebooks(arguments.folder)
    print(f"{len(copies)} notebooks are in {arguments.folder}")
    return 0


def _add_notebooks_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the copies are to be")


def _complete(arguments: argparse.Namespace) -> int:
    print(completion.script(_parser(completion.PROGRAM), arguments.shell))
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    outputs.check({"--out": (arguments.out, outputs.RECORDS)})
    num_new, num_known = store.merge(arguments.out, arguments.files)
    print(f"{num_new} records added to {arguments.out}, {num_known} were there already")
    return 0


def _check(config: RunConfig, out: Path) -> None:
    """Refuse what would stop the measurements later, before anything is loaded or started."""
    preflight.check(config)
    outputs.check({"--out": (out, outputs.RECORDS)})


def _add_sweep_speed_options(parser: argparse.ArgumentParser) -> None:
    add_bench_options(parser)
    parser.set_defaults(num_repeats=5, out=Path("report/_build/results/sweep-speed.jsonl"))


COMMANDS = (
    Command(
        "run", "train once, print a table, append a record", add_run_options, shell.run, TRAINING
    ),
    Command(
        "verify",
        "take the same steps serially and so spread, and say what differs",
        verify.add_options,
        verify.run,
        TRAINING,
    ),
    Command(
        "bench", "measure what the project claims about speed", add_bench_options, _bench, TRAINING
    ),
    Command("gpu", "measure what a GPU gives, in some minutes", add_gpu_options, _gpu, TRAINING),
    Command(
        "survey",
        "survey this machine: predictions first, then measurements, in slices of some minutes",
        add_survey_options,
        _survey,
        TRAINING,
    ),
    Command(
        "regimes",
        "find steps to a goal error against the batch size, metaparameters tuned at each",
        add_regimes_options,
        _regimes,
        TRAINING,
    ),
    Command(
        "sweep-speed",
        "measure how fast a sweep of regimes is, on one engine and on two",
        _add_sweep_speed_options,
        _sweep_speed,
        TRAINING,
    ),
    Command("mpi", "say which MPI the ranks use, and try it", mpi.add_options, mpi.run),
    Command(
        "notebooks",
        "copy the notebooks of this version into a folder",
        _add_notebooks_options,
        _copy_notebooks,
    ),
    Command(
        "completion",
        "print a script that has a shell complete commands and options",
        completion.add_options,
        _complete,
    ),
)
MERGE = Command(
    "merge",
    "append to a file the records of others that it does not hold yet",
    add_merge_options,
    _merge,
    "records",
)
