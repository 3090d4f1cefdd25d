"""Errors about the input are told from defects by who raises them."""

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.config.usage import is_usage_error


def error_of(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_value_that_this_library_refuses_is_about_the_input():
    assert is_usage_error(error_of(lambda: RunConfig(lr=-1.0)))


def test_a_value_that_another_library_refuses_is_a_defect():
    assert not is_usage_error(error_of(lambda: torch.optim.SGD([torch.zeros(1)], lr=-1.0)))


def test_other_errors_are_defects():
    assert not is_usage_error(error_of(lambda: 1 / 0))
