"""`python -m nnpar_lib`: the runs of the notebooks from a shell or a batch job."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import NoReturn

from nnpar_lib import __version__
from nnpar_lib.cli import run as shell
from nnpar_lib.cli.options import (
    add_bench_options,
    add_gpu_options,
    add_merge_options,
    add_regimes_options,
    add_run_options,
)
from nnpar_lib.config import RunConfig
from nnpar_lib.launch import preflight
from nnpar_lib.records import store

WRONG_USE = 2
INTERRUPTED = 130  # what shells say of a process that Ctrl-C ended


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of three dozen options around it."""

    def error(self, message: str) -> NoReturn:
        """End with the status of wrong use."""
        shell.complain(f"{message}; see {self.prog} --help")
        raise SystemExit(WRONG_USE)


def main() -> int:
    """Run the command of the shell; a wrong parameter is one line on standard error and status
    2."""
    arguments, unknown = _parser().parse_known_args()
    if unknown:
        arguments.parser.error(_describe_unknown(unknown[0], arguments))
    try:
        return int(arguments.command(arguments))
    except ValueError as error:
        shell.complain(str(error))
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED


def _help(arguments: argparse.Namespace) -> int:
    arguments.parser.print_help()
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    """Measure; what would stop the benchmarks later is looked for before anything is loaded or
    started."""
    preflight.check(RunConfig(dataset=arguments.dataset))
    preflight.check_writable(arguments.out)
    from nnpar_lib.experiments import bench  # loads what a rank that trains has no use for

    return bench.run(arguments)


def _gpu(arguments: argparse.Namespace) -> int:
    """Measure; without a GPU nothing is loaded or started."""
    preflight.check(RunConfig(dataset=arguments.dataset, device="cuda"))
    preflight.check_writable(arguments.out)
    from nnpar_lib.experiments import gpu

    return gpu.run(arguments)


def _regimes(arguments: argparse.Namespace) -> int:
    from nnpar_lib.experiments import regimes_study

    return regimes_study.run(arguments)


def _merge(arguments: argparse.Namespace) -> int:
    preflight.check_writable(arguments.out)
    num_new, num_known = store.merge(arguments.out, arguments.files)
    print(f"{num_new} records added to {arguments.out}, {num_known} were there already")
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m nnpar_lib", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(command=_help, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    run = commands.add_parser(
        "run", help="train once, print a table, append a record", allow_abbrev=False
    )
    add_run_options(run)
    run.set_defaults(command=shell.run, parser=run)
    benchmarks = commands.add_parser(
        "bench", help="measure what the project claims about speed", allow_abbrev=False
    )
    add_bench_options(benchmarks)
    benchmarks.set_defaults(command=_bench, parser=benchmarks)
    gpu = commands.add_parser(
        "gpu", help="measure what a GPU gives, in some minutes", allow_abbrev=False
    )
    add_gpu_options(gpu)
    gpu.set_defaults(command=_gpu, parser=gpu)
    regimes = commands.add_parser(
        "regimes",
        help="find steps to a goal error against the batch size, metaparameters tuned at each",
        allow_abbrev=False,
    )
    add_regimes_options(regimes)
    regimes.set_defaults(command=_regimes, parser=regimes)
    collected = commands.add_parser("results", help="collect records", allow_abbrev=False)
    collected.set_defaults(command=_help, parser=collected)
    merge = collected.add_subparsers(metavar="COMMAND").add_parser(
        "merge",
        help="append to a file the records of others that it does not hold yet",
        allow_abbrev=False,
    )
    add_merge_options(merge)
    merge.set_defaults(command=_merge, parser=merge)
    return parser


def _describe_unknown(word: str, arguments: argparse.Namespace) -> str:
    """Name an option that does not exist and the one that was probably meant."""
    options = [
        "--" + name.replace("_", "-")
        for name in vars(arguments)
        if name not in ("command", "parser")
    ]
    near = difflib.get_close_matches(word.split("=", maxsplit=1)[0], options, n=1)
    return f"unknown option {word!r}" + (f" (did you mean {near[0]}?)" if near else "")


if __name__ == "__main__":
    sys.exit(main())
