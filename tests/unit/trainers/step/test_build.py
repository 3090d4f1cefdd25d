"""What a strategy is built from, and what it does not need."""

import pytest

from tests.conftest import run_python

STEP_SERIALLY = """
import sys
from nnpar_lib.config import RunConfig
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.timeline import Timeline

config = RunConfig(hidden=(4,), cuda_graph={cuda_graph})
strategy = strategies.build(config, SingleCommunicator(), Timeline())
strategy.step(strategy.batches.batch(0), 0)
print("nnpar_lib.trainers.step.cuda_graph" in sys.modules)
"""


def imports_cuda_graph(*, cuda_graph):
    process = run_python("-c", STEP_SERIALLY.format(cuda_graph=cuda_graph))
    assert process.returncode == 0, process.stderr
    return process.stdout.strip() == "True"


@pytest.mark.slow
def test_a_serial_step_does_not_import_the_code_of_cuda_graphs():
    assert not imports_cuda_graph(cuda_graph=False)


@pytest.mark.slow
def test_a_recorded_step_does():
    assert imports_cuda_graph(cuda_graph=True)
