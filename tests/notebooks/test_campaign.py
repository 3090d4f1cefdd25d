"""A campaign over notebooks of a few cells: what it measures in between, and how it goes on."""

import nbformat
import pytest
from papermill.exceptions import PapermillExecutionError

from nnpar_lib.analysis.claims import quietness as claims
from nnpar_lib.experiments import quietness
from nnpar_lib.records import store
from tests.conftest import ROOT

FIRST, LAST = "08_demo", "10_build_an_all_reduce"
PARAMETERS = "# parameters\nresults_folder = num_ranks = dataset = preset = None"
WORK = """
from pathlib import Path
Path(results_folder, "{number}_steps.txt").write_text(preset)
assert not Path(results_folder, "fails-in-{number}").exists()
"""


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Return the module of campaigns, in a project of two short notebooks, with little noise to
    measure."""
    monkeypatch.syspath_prepend(ROOT / "report")
    import campaign

    monkeypatch.setattr(campaign, "ROOT", tmp_path)
    monkeypatch.setattr(quietness, "NUM_STEPS", {"mlp": 3, "cnn": 1})
    monkeypatch.setattr(quietness, "NUM_REPEATS", 2)
    monkeypatch.setattr(quietness.wait_until_quiet, "__defaults__", (0.0,))
    (tmp_path / "notebooks").mkdir()
    for name in (FIRST, LAST):
        cells = [
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(WORK.format(number=name[:2])),
        ]
        language = {"language_info": {"name": "python"}}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=language)
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return campaign


def of(report, folder, **options):
    return report.Campaign(
        folder=folder / "build",
        dataset="digits",
        preset="full",
        results=folder / "results" / "digits-full",
        **options,
    )


@pytest.mark.timeout(300)
def test_noise_is_measured_around_notebooks_and_a_campaign_goes_on(report, tmp_path, capsys):
    results = tmp_path / "results" / "digits-full"
    results.mkdir(parents=True)
    (results / "08_steps.txt").write_text("earlier")
    obstacle = results / "fails-in-10"
    obstacle.touch()
    with pytest.raises(PapermillExecutionError):
        of(report, tmp_path).measure((FIRST, LAST))
    assert (results / "08_steps.txt").read_text() == "full"
    assert [file.read_text() for file in tmp_path.glob("build/earlier/*/*")] == ["earlier"]
    obstacle.unlink()
    finished = of(report, tmp_path, resume=True).measure((FIRST, LAST))
    assert [file.stem for file in finished] == [FIRST, LAST]
    assert f"{FIRST}] was finished before" in capsys.readouterr().out
    noise = store.load(results / "campaign_noise.jsonl")
    table = claims.table(noise)
    assert table["moment"].unique().tolist() == [f"before {FIRST}", f"before {LAST}", "at the end"]
    assert sorted(table["model"].unique()) == ["cnn", "mlp"]
    numbers = table[["again_low", "again_high", "at_once", "busy_cores", "load_average"]]
    assert (numbers.to_numpy(dtype=float) >= 0).all()
    of(report, tmp_path, resume=True).measure((FIRST, LAST))
    assert store.load(results / "campaign_noise.jsonl") == noise
