"""The table of what ranks can be asked to do names functions that exist."""

import ast
import inspect

import pytest

from nnpar_lib.launch import cluster, engines, tasks
from nnpar_lib.launch.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_a_task_names_a_function_that_exists(task):
    function = tasks.load(task)
    assert callable(function)
    assert f"{function.__module__}.{function.__name__}" == TASKS[task]


def names_in(module):
    """Return the strings that a module uses as the name of a task."""
    calls = [
        node.args[0]
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("_measure", "_call_task")
    ]
    entries = [
        node.slice
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "TASKS"
    ]
    return {node.value for node in (*calls, *entries) if isinstance(node, ast.Constant)}


def test_every_task_that_engines_ask_for_is_in_the_table():
    names = names_in(engines) | names_in(cluster)
    assert {"run_interleaved", "describe_rank", "introduce_rank"} <= names <= set(TASKS)
