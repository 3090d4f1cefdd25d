"""Bad parameters are refused in one line that names them, before anything is started."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnpar_lib import __main__ as shell
from nnpar_lib.config import RunConfig
from nnpar_lib.config.option import describe

FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
WORDS = st.from_regex(r"[a-z]{3,8}", fullmatch=True)


def bad_value(name):
    """Return a strategy for what an option of this name must not be."""
    field = FIELDS[name]
    if choices := describe(field).choices:
        return WORDS.filter(lambda word: word not in choices)
    if str(field.type).startswith("int"):
        return st.one_of(
            WORDS,
            st.floats(0.1, 0.9).map(str),
            st.integers(-(10**6), (describe(field).minimum or 0) - 1).map(str),
        )
    return {
        "lr": st.sampled_from(["0", "-0.1", "nan", "inf", "fast"]),
        "momentum": st.sampled_from(["-1", "1", "nan"]),
        "hidden": st.sampled_from(["0", "-1", "a,b", "128,0", ","]),
        "channels": st.sampled_from(["0", "x", "8,-8"]),
        "balance": st.sampled_from(["most", "1;2"]),
    }.get(name, st.sampled_from(["-1", "nan", "inf", "soon"]))


NAMES = [name for name, field in FIELDS.items() if field.type != "bool" and name != "checkpoint"]
BAD_OPTIONS = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), bad_value(name)))
REFUSED = []


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(bad=BAD_OPTIONS)
def test_a_bad_parameter_is_one_line_before_anything_starts(bad, capsys, monkeypatch):
    name, value = bad
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    more = ["--strategy=pipeline"] if name == "balance" else []
    monkeypatch.setattr(sys, "argv", ["nnpar", "run", f"--{name.replace('_', '-')}={value}", *more])
    try:
        status = shell.main()
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("nnpar: ") and error.count("\n") == 1
    assert value in error or name in error.replace("-", "_")
    REFUSED.append(bad)


def test_a_hundred_were_refused():
    assert len(REFUSED) >= 100
