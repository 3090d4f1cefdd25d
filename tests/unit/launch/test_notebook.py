"""The parameters of a notebook that does one run are checked as the options of the shell are."""

import functools
import textwrap

import nbformat
import pytest

from nnpar_lib import schedules
from nnpar_lib.launch import notebook
from tests.conftest import ROOT, run_python

DECLARED = """# parameters
strategy = "pipeline"
schedule: str = "1f1b"
num_ranks = 2
num_microbatches = 4
lr = 0.1
hidden = [8, 8]
results_folder = "results"
"""


def test_options_of_a_run_are_accepted_where_the_strategy_reads_them():
    notebook.check_parameters(["", DECLARED, "other = 3"])
    notebook.check_parameters(["", DECLARED, "# Parameters\nnum_microbatches = 8\nlr = 0.2"])
    # what the notebook itself declares is no mistake of the user who chooses another strategy
    notebook.check_parameters(["", DECLARED, '# Parameters\nstrategy = "gradient_averaging"'])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            'strategy = "gradient_averaging"\nnum_microbatches = 8',
            "num_microbatches is not read by strategy gradient_averaging; leave it out, or choose"
            " pipeline, hybrid, torch_pipelining",
        ),
        ("lr = -1", "lr=-1 is not a positive number"),
        ('strategy = "pipelin"', "did you mean 'pipeline'"),
        ("num_microbatch = 8", "unknown parameter 'num_microbatch'; did you mean"),
    ],
)
def test_a_wrong_option_of_a_run_is_one_line(given, message):
    with pytest.raises(ValueError) as caught:
        notebook.check_parameters(["", DECLARED, f"# Parameters\n{given}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_a_notebook_that_compares_strategies_are_its_own():
    sweep = '# parameters\noptimizer = "sgd"\nnum_ranks = 2'
    notebook.check_parameters(["", sweep, "# Parameters\nnum_ranks = 4"])


def test_papermill_ends_with_that_line(tmp_path):
    parameters = nbformat.v4.new_code_cell(DECLARED, metadata={"tags": ["parameters"]})
    check = "from nnpar_lib.launch import notebook\n\nnotebook.check_parameters(In)"
    cells = [parameters, nbformat.v4.new_code_cell(check)]
    path = tmp_path / "run.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    words = ("-m", "papermill", path, tmp_path / "out.ipynb")
    given = ("-p", "strategy", "tensor", "-p", "num_microbatches", 8)
    process = run_python(*words, *given, timeout=120)
    assert process.returncode != 0
    assert "ValueError: num_microbatches is not read by strategy tensor" in process.stderr


def test_source_is_shown_as_it_lies_with_its_place(capsys):
    place, code = notebook.source(schedules.Pipeline.rank_of)
    file, line = place.split(", line ")
    lines = (ROOT / file).read_text().splitlines()
    assert file == "nnpar_lib/schedules.py"
    assert lines[int(line) - 1] == "    def rank_of(self, stage: int) -> int:"
    assert code.splitlines()[0] == "def rank_of(self, stage: int) -> int:"
    assert textwrap.indent(code, "    ") in (ROOT / file).read_text()
    notebook.show_source(schedules.Pipeline.rank_of)
    shown = capsys.readouterr().out
    assert "```python\\ndef rank_of" in shown and "text/plain" in shown


def test_source_of_properties_classes_and_wrapped_functions_is_shown():
    assert "num_ranks * self.num_chunks" in notebook.source(schedules.Pipeline.num_stages)[1]
    assert notebook.source(schedules.Pipeline)[1].startswith("@dataclass")
    cached = functools.cache(schedules.ideal_bubble_fraction)
    assert notebook.source(cached) == notebook.source(schedules.ideal_bubble_fraction)


def test_what_has_no_source_is_refused():
    with pytest.raises(TypeError, match="has no source; give a function"):
        notebook.source(len)
    with pytest.raises(TypeError, match="has no source"):
        notebook.source(3)


def test_a_function_in_cpp_is_shown_whole(capsys):
    notebook.show_cpp("update.cpp", "void sum_blocks(")
    shown = capsys.readouterr().out
    assert "```cpp\\nvoid sum_blocks(" in shown and "action(begin, sum.data(), size);" in shown
    assert "on_threads" not in shown
    with pytest.raises(ValueError, match=r"no line of update\.cpp holds 'void gone'"):
        notebook.show_cpp("update.cpp", "void gone")
