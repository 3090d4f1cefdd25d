"""`nnpar_lib.verify`: somebody's own step under mpiexec, and on engines from a notebook."""

import re
import textwrap

import pytest
import torch

from nnpar_lib import verify
from nnpar_lib.launch.engines import engines
from tests.conftest import run_mpi, run_python
from tests.mpi import planted_bugs


def example():
    """Return the example of the docstring as a program."""
    block = re.search(r"::\n\n((?:    .*\n|\n)+)", verify.__doc__)[1]
    return textwrap.dedent(block)


def test_the_example_of_the_docstring_runs_under_mpiexec_and_is_equal(tmp_path):
    script = tmp_path / "own_step.py"
    script.write_text(example())
    process = run_mpi(3, script)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("equal to serial training: 14 checks") == 3


def test_a_step_that_raises_under_mpiexec_is_a_line_with_the_line_of_its_source(tmp_path):
    script = tmp_path / "own_step.py"
    script.write_text(example().replace("loss.backward()", "losss.backward()"))
    process = run_mpi(2, script)
    assert process.stdout.count("raised NameError: name 'losss' is not defined, in line") == 2
    assert "losss.backward()" in process.stdout and "Traceback" not in process.stderr


def torch_step(model, part, group):
    planted_bugs.loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        torch.distributed.all_reduce(parameter.grad, group=group)
        parameter.grad /= part.num_global_examples


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("step", "over"), [(planted_bugs.right, "mpi4py"), (torch_step, "torch")])
def test_a_right_step_is_equal_on_engines(shared_engines, step, over, dtype):
    report = verify.check(step, over=over, dtype=dtype, ranks=shared_engines)
    assert report.is_equal, report
    assert {size for _, size in report.tried} == {1, 2}


def test_a_report_names_step_rank_parameter_and_cause(shared_engines):
    report = verify.check(planted_bugs.last_rank_left_out, ranks=shared_engines)
    worst = report.worst("short last batch", 2)
    assert (worst.step, worst.batch_size) == (0, 8) and worst.relative > 0.01
    assert worst.parameter in ("0.weight", "0.bias", "2.weight", "2.bias")
    assert "rank 1's part is left out" in str(report)


def test_an_own_model_data_and_loss_are_used(shared_engines):
    def step(model, part, communicator):
        ((model(part.inputs) - part.targets) ** 2).sum().backward()
        for parameter in model.parameters():
            total = planted_bugs.summed(parameter.grad, communicator)
            parameter.grad = total / part.num_global_examples

    data = torch.randn(30, 4), torch.randn(30, 2, dtype=torch.float64)
    report = verify.check(
        step,
        model=lambda: torch.nn.Linear(4, 2),
        examples=data,
        loss=lambda outputs, targets: ((outputs - targets) ** 2).sum(),
        ranks=shared_engines,
    )
    assert report.is_equal, report


def test_ranks_that_raise_together_leave_the_engines_as_they_were(shared_engines):
    def broken(model, part, communicator):
        return part.no_such_thing

    report = verify.check(broken, ranks=shared_engines)
    assert re.search(r"no attribute 'no_such_thing', in line \d+ of broken", report.error)
    assert "return part.no_such_thing" in str(report)
    assert verify.check(planted_bugs.right, ranks=shared_engines).is_equal


def test_a_step_that_waits_for_ever_is_told_with_its_line():
    def waits(model, part, communicator):
        if communicator.rank == 0 and communicator.size == 2:
            communicator.Recv(model[0].weight.detach().numpy(), 1)
        planted_bugs.right(model, part, communicator)

    with engines(2) as ranks:
        report = verify.check(waits, ranks=ranks, seconds=2)
    assert re.search(r"rank [01] has been in line \d+ of waits for 2 s", report.error), report


def test_bad_arguments_are_one_line_and_importing_the_library_stays_light():
    with pytest.raises(ValueError, match="over is 'nccl'; choose from mpi4py, torch"):
        verify.check(planted_bugs.right, over="nccl")
    with pytest.raises(ValueError, match="a check is 'even'; choose from even parts"):
        verify.check(planted_bugs.right, checks=["even"])
    light = "import sys, nnpar_lib; assert 'torch' not in sys.modules"
    assert run_python("-c", light).returncode == 0
