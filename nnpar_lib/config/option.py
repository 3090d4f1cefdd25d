"""The description of one option, and the checks that follow from it: type, choices, limits.

A field of a section says everything about itself once. Other modules ask `config.queries` instead
of keeping lists of names.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LARGEST_NUMBER = 2**63 - 1  # a whole number that torch, numpy and C++ hold
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}

Role = Literal["problem", "method", "bookkeeping"]
PROBLEM: Role = "problem"  # what is trained: a ratio across it means nothing
METHOD: Role = "method"  # how it is computed: that is what is compared
BOOKKEEPING: Role = "bookkeeping"  # what is kept, watched and reported


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field says about itself.

    - `default` is the value where none is given.
    - `text` and `choices` are what `--help` shows.
    - `role` is one of `problem`, `method` and `bookkeeping`.
    - `read_by` names, for each of some other fields, the values that look at this one:
      `{"strategy": ("hybrid",)}`. All of them must hold; an empty mapping means always.
    - `minimum` and `maximum` are the smallest and the largest number that are allowed.
    - `native` has the values that the program in C++ offers; empty means all.
    - `changes_rate` is False for a part of the problem that does not change how long a step takes:
      rates are compared across it.
    - `changes_numbers` is True for a method whose result differs from the plain one by more than
      the order of a summation.
    - `fixed` is True where a run that goes on from a checkpoint must keep the value.
    - `tells_runs_apart` is False where two runs that differ in nothing else are the same run.
    """

    default: Any
    text: str
    choices: tuple[str, ...]
    role: Role | None
    read_by: Mapping[str, tuple[str, ...]]
    minimum: int | None
    maximum: int
    native: tuple[Any, ...]
    changes_rate: bool
    changes_numbers: bool
    fixed: bool
    tells_runs_apart: bool


def option(
    default: Any,
    text: str,
    choices: Sequence[str] = (),
    *,
    role: Role | None = None,
    read_by: Mapping[str, Sequence[str]] | None = None,
    minimum: int | None = None,
    maximum: int = LARGEST_NUMBER,
    native: Sequence[Any] = (),
    changes_rate: bool = True,
    changes_numbers: bool = False,
    fixed: bool | None = None,
    tells_runs_apart: bool = True,
) -> Any:
    """Return a dataclass field that carries its own description; see `Option`.

    `fixed` left out is True for the parts of the problem that change the rate.
    """
    description = Option(
        default=default,
        text=text,
        choices=tuple(choices),
        role=role,
        read_by={name: tuple(values) for name, values in (read_by or {}).items()},
        minimum=minimum,
        maximum=maximum,
        native=tuple(native),
        changes_rate=changes_rate,
        changes_numbers=changes_numbers,
        fixed=(role == PROBLEM and changes_rate) if fixed is None else fixed,
        tells_runs_apart=tells_runs_apart,
    )
    return dataclasses.field(default=default, metadata={"option": description})


def describe(field: dataclasses.Field[Any]) -> Option:
    """Return the description that a field carries."""
    description: Option = field.metadata["option"]
    return description


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a config. It checks its own fields and knows no other section.

    A wrong value raises a ValueError of one line that names the value and what would be right.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            description = describe(field)
            check_type(field.name, str(field.type), value)
            if description.choices and value not in description.choices:
                hint = suggestion(value, description.choices)
                raise ValueError(f"unknown {field.name} {value!r}; {hint}")
            check_limits(field.name, value, description)

    def _set(self, name: str, value: Any) -> None:
        """Replace a value by another form of itself, before anything is checked."""
        object.__setattr__(self, name, value)


def check_limits(name: str, value: Any, description: Option) -> None:
    """Refuse a number outside its limits; an option that is not given has none."""
    if not isinstance(value, int | float):
        return
    if description.minimum is not None and value < description.minimum:
        raise ValueError(f"{name}={value} is too small; it must be at least {description.minimum}")
    if isinstance(value, int) and value > description.maximum:
        raise ValueError(f"{name}={value} is too large; it must be at most {description.maximum}")


def suggestion(value: object, known: Sequence[str]) -> str:
    """Return the nearest known name, if one is near, and all known names."""
    near = difflib.get_close_matches(str(value), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "choose from " + ", ".join(known)


def check_type(name: str, annotation: str, value: Any) -> None:
    """Refuse a value of another type than the annotation; papermill passes on what YAML gives."""
    if value is None and "None" in annotation:
        return
    kind = annotation.split(" ", maxsplit=1)[0]
    if kind.startswith("tuple"):
        is_right = all(_is_of("int", item) for item in value)
        kind = "list of whole numbers"
    else:
        is_right = _is_of(kind, value)
    if not is_right:
        raise ValueError(f"{name}={value!r} is not a value of type {kind}")
    if kind == "float" and abs(value) > sys.float_info.max and isinstance(value, int):
        raise ValueError(f"{name}={value} is too large for a floating-point number")


def _is_of(kind: str, value: Any) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
