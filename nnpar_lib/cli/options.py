"""The shell's options, made from the fields of RunConfig so that there is one list of
parameters."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import MODELS
from nnpar_lib.config.option import describe
from nnpar_lib.config.rules import check_given
from nnpar_lib.config.sections import OPTIONS, SECTIONS
from nnpar_lib.config.study import StudyConfig, powers_of_two
from nnpar_lib.records.trace import DEFAULT_NUM_STEPS

SURVEY_PARTS = ("noise", "exchange", "blocks", "predictions", "scaling", "gpu", "cuts", "cpp")
NUMBERS: dict[
    str, tuple[type[int] | type[float], str, str]
] = {  # by the type of a field: parser, name, example
    "int": (int, "whole number", "100"),
    "float": (float, "number", "0.1"),
}


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for every parameter of a run, and those that say what happens with the
    record."""
    add_config_options(parser)
    _add_num_repeats(parser, 1)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="append one JSON object a run to this file (default: none, the table is all)",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help=(
            "write what each rank did in the last steps (10, or --num-traced-steps) to this JSON "
            "file, for Perfetto or Chrome's about:tracing (default: none)"
        ),
    )
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help=(
            "do nothing if --out already holds --num-repeats runs with the same parameters, code"
            " and host (default: run again)"
        ),
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for every parameter of a run."""
    for section in SECTIONS:
        group = parser.add_argument_group(section.__name__.lower(), section.__doc__)
        for field in dataclasses.fields(section):
            _add_option(group, field)


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmarks."""
    _add_dataset(parser)
    _add_num_repeats(parser, 15)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("report/_build/results/bench.jsonl"),
        help="append the records to this file (default: %(default)s)",
    )


def add_gpu_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the measurements of a GPU."""
    _add_dataset(parser)
    _add_minutes(parser, 7.0, "begin nothing after so many minutes")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("report/results/gpu.jsonl"),
        help="append the records to this file, where the report finds them (default: %(default)s)",
    )


def add_survey_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the survey of a machine."""
    _add_dataset(parser)
    _add_minutes(parser, 15.0, "end after so many minutes; the same command goes on later")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=(
            "folder of the records (default: report/results/machines/NAME, where NAME says what the"
            " machine is)"
        ),
    )
    for name, words in (("parts", SURVEY_PARTS), ("models", MODELS)):
        parser.add_argument(
            f"--{name}",
            type=_words,
            default=words,
            metavar=name.upper(),
            help=f"only these, comma separated (default: {','.join(words)})",
        )
    parser.add_argument(
        "--run-seconds",
        type=_number("float"),
        default=1.0,
        metavar="SECONDS",
        help="about how long each run trains (default: %(default)s)",
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def add_regimes_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for every parameter of a study of scaling regimes, and where it is kept."""
    readers: dict[str, Callable[[str], Any]] = {
        "goal_errors": _list_of("float"),
        "batch_sizes": _batch_sizes,
        "channels": _list_of("int"),
        "str": str,
        "int": _count,
    }
    for field in dataclasses.fields(StudyConfig):
        read = readers.get(field.name) or readers[str(field.type)]
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=read,
            default=field.default,
            metavar=field.name.rsplit("_", 1)[-1].upper(),
            help=f"{describe(field).text} (default: {_shown(field.default)})",
        )
    parser.add_argument(
        "--num-ranks",
        type=_count,
        default=2,
        metavar="RANKS",
        help="engines of one thread each that share the runs (default: %(default)s)",
    )
    parser.add_argument(
        "--storage",
        type=Path,
        default=Path("sweep.db"),
        metavar="FILE",
        help="finished runs are kept there as they come, and not done again (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("regimes.json"),
        metavar="FILE",
        help="the tables, the fits and all runs, as JSON (default: %(default)s)",
    )


def add_merge_options(parser: argparse.ArgumentParser) -> None:
    """Add the files to read and the one to append to."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="files of records, one JSON object a line",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="append to this file; records that it holds already are left out (no default)",
    )


def config_from(arguments: argparse.Namespace, *, default_num_ranks: int) -> RunConfig:
    """Return the config that the options describe.

    Raises a ValueError for a bad value, and for an option that was given and has no effect.
    """
    given = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if getattr(arguments, "trace", None) is not None:
        given.setdefault("num_traced_steps", DEFAULT_NUM_STEPS)
    config = RunConfig.from_parameters({"num_ranks": default_num_ranks, **given})
    check_given(config, given)
    return config


def _add_option(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    """Add one option; None means that it was not given, so a default is written only once."""
    name = "--" + field.name.replace("_", "-")
    option = describe(field)
    text = option.text
    if option.choices:
        text += f"; one of {', '.join(option.choices)}"
    text += "".join(f"; {_readers(*reader)}" for reader in option.read_by.items())
    if "default" not in text:
        text += f" (default: {_shown(field.default)})"
    if field.type == "bool":
        group.add_argument(name, action=argparse.BooleanOptionalAction, help=text)
        return
    kind = str(field.type).split(" ", maxsplit=1)[0]
    group.add_argument(
        name,
        type=_number(kind) if kind in NUMBERS else str,
        help=text,
        metavar=field.name.rsplit("_", 1)[-1].upper(),
    )


def _readers(reader: str, values: tuple[str, ...]) -> str:
    """Say for which values of another option one is read, by the shorter of two lists."""
    idle = [value for value in OPTIONS[reader].choices if value not in values]
    if len(idle) < len(values):
        return f"not for {reader} {', '.join(idle)}"
    return f"only for {reader} {', '.join(values)}"


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="digits", help="the data set (default: %(default)s)")


def _add_minutes(parser: argparse.ArgumentParser, default: float, meaning: str) -> None:
    parser.add_argument(
        "--minutes",
        type=_number("float"),
        default=default,
        metavar="MINUTES",
        help=f"{meaning} (default: %(default)s)",
    )


def _add_num_repeats(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--num-repeats",
        type=_count,
        metavar="REPEATS",
        default=default,
        help="how often to do each run (default: %(default)s)",
    )


def _number(kind: str) -> Callable[[str], int | float]:
    """Return a function that reads a number, and says what one looks like where it is given
    something else."""
    convert, what, example = NUMBERS[kind]

    def read(text: str) -> int | float:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {what}; write it like {example}"
            ) from None

    return read


def _list_of(kind: str) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(_number(kind)(item) for item in text.split(",") if item)


def _batch_sizes(text: str) -> tuple[int, ...]:
    """Read 4,16,64, or 4:64 for the powers of two from one to the other."""
    if ":" not in text:
        return _list_of("int")(text)
    first, last = (int(_number("int")(end)) for end in text.split(":", maxsplit=1))
    try:
        return powers_of_two(first, last)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    count = int(_number("int")(text))
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; it must be at least 1")
    return count


def _shown(default: Any) -> str:
    if default is None:
        return "no limit"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
