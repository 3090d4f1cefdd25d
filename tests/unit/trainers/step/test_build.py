"""What a strategy is built from, and what it does not need."""

import pytest

from tests.conftest import run_python

STEP_SERIALLY = """
import sys
from nnpar_lib.config import RunConfig
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.timeline import Timeline

config = RunConfig(hidden=(4,), record={record})
strategy = strategies.build(config, SingleCommunicator(), Timeline())
strategy.step(strategy.batches.batch(0), 0)
modules = [f"nnpar_lib.trainers.step.{{name}}" for name in ("operations", "cuda_graph")]
print(*(module in sys.modules for module in modules))
"""


@pytest.mark.parametrize(("record", "expected"), [(False, "False False"), (True, "True False")])
@pytest.mark.slow
def test_a_step_imports_the_code_of_the_record_that_it_has(record, expected):
    process = run_python("-c", STEP_SERIALLY.format(record=record))
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == expected
