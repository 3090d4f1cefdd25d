"""The survey of a machine: what is planned, in which order, what was measured, and what is
refused."""

import dataclasses
import itertools

import pytest

from nnpar_lib.analysis.claims import machines
from nnpar_lib.cli import commands
from nnpar_lib.config.network import MODELS
from nnpar_lib.experiments.survey import group as parts
from nnpar_lib.experiments.survey import groups, machine, survey, tables
from nnpar_lib.experiments.survey.plan import PILOT, Plan, is_narrow
from nnpar_lib.records import store
from nnpar_lib.records.kinds import (
    BarrierRecord,
    FailureRecord,
    MachineRecord,
    PredictionRecord,
    RunRecord,
)
from nnpar_lib.records.provenance import provenance

TWO = parts.Place(num_cores=2, num_node_cores=2)
MANY = parts.Place(num_cores=12, num_node_cores=12, num_gpus=1)
ORIGIN = {**provenance(), "survey": {"machine": "test", "slice": 1, "noise": {}}}


def run_record(config, experiment="", label="", repeat=0, rate=1000.0):
    seconds = config.num_steps * config.global_batch_size / rate
    return RunRecord(
        strategy=config.strategy,
        model=config.model,
        dataset=config.dataset,
        num_ranks=config.num_ranks,
        threads_per_rank=config.num_threads,
        global_batch_size=config.global_batch_size,
        optimizer=config.optimizer,
        num_steps=config.num_steps,
        num_examples=config.num_steps * config.global_batch_size,
        train_seconds=seconds,
        samples_per_second=rate,
        compute_seconds=seconds,
        communicate_seconds=0.0,
        wait_seconds=None,
        activity_seconds={},
        final_train_loss=1.0,
        final_test_accuracy=None,
        diverged=False,
        weights_sha256="",
        num_parameters=1,
        oversubscribed=False,
        bound=True,
        config=config.to_dict(),
        provenance=ORIGIN,
        experiment=experiment,
        label=label,
        repeat=repeat,
    )


def records_of(work, rate=lambda label, repeat: 1000.0):
    """Return what a piece of work would leave in the file."""
    group = work.group
    if group.part == parts.PREDICTIONS:
        names = [name.split(": ", 1) for name in group.configs]
        return [
            PredictionRecord(
                predicted_seconds=0.001,
                waiting_seconds=0.0,
                basis="",
                config={},
                provenance=ORIGIN,
                experiment=experiment,
                label=label,
            )
            for experiment, label in names
        ]
    if group.measure is not None:
        record = BarrierRecord(
            num_ranks=2,
            seconds=[1e-6],
            provenance=ORIGIN,
            oversubscribed=False,
            experiment=group.experiment,
        )
        return [record] * group.num_records
    return [
        run_record(config, work.experiment, label, work.repeat, rate(label, work.repeat))
        for index, (label, config) in enumerate(work.configs.items())
        if index not in work.done
    ]


def surveyed(place, rate=lambda label, repeat: 1000.0, most=10_000):
    """Return the works of a whole survey in their order, and the records that they leave."""
    plan = Plan(groups.groups(place), run_seconds=1.0)
    records, works = [], []
    for _ in range(most):
        work = next(plan.works(records, 1), None)
        if work is None:
            break
        works.append(work)
        records += records_of(work, rate)
    return works, records


def noisy(label, repeat):
    return 1000.0 * (1 + 0.5 * (repeat % 3)) if "ranks" in label else 1000.0


def test_predictions_are_written_before_the_first_run_that_they_are_of():
    works, _ = surveyed(TWO)
    order = [part for part, _ in itertools.groupby(work.group.part for work in works)]
    assert order[:4] == [parts.NOISE, parts.EXCHANGE, parts.BLOCKS, parts.PREDICTIONS]
    first = next(i for i, work in enumerate(works) if work.group.part == parts.PREDICTIONS)
    assert not [w for w in works[:first] if w.group.part in parts.PREDICTED]
    predicted = set(works[first].group.configs)
    run = {f"{w.group.experiment}: {label}" for w in works[first:] for label in w.configs}
    noise = {name for name in run if name.startswith("noise")}
    assert predicted == run - noise


def test_no_run_is_offered_before_it_is_predicted():
    plan = Plan(groups.groups(TWO), run_seconds=1.0)
    offered = {work.group.part for work in plan.works([], 1)}
    assert offered == {parts.NOISE, parts.EXCHANGE, parts.BLOCKS}


def test_every_group_has_a_few_repeats_before_any_has_more():
    works, records = surveyed(TWO, noisy)
    repeats = [work.repeat for work in works if work.group.measure is None]
    assert repeats.index(3) > max(i for i, repeat in enumerate(repeats) if repeat < 3)
    assert repeats.index(6) > max(i for i, repeat in enumerate(repeats) if repeat < 6)
    assert max(repeats) == 14
    keys = [(r.experiment, r.label, r.repeat) for r in records if isinstance(r, RunRecord)]
    assert len(keys) == len(set(keys))


def test_what_is_certain_is_not_repeated_further():
    works, _ = surveyed(TWO)
    assert max(work.repeat for work in works) == 5
    runs = {label: [run_record(TWO.config("mlp", 64), label=label)] for label in ("a", "b")}
    assert not is_narrow("a", runs)  # a single repeat has no interval


def test_a_survey_that_is_cut_off_anywhere_goes_on_as_if_nothing_had_happened():
    works, records = surveyed(TWO, noisy)
    plan = Plan(groups.groups(TWO), run_seconds=1.0)
    sizes = list(itertools.accumulate(len(records_of(work)) for work in works))
    for index in range(0, len(works) - 1, 7):
        torn = records[: sizes[index] - 1]
        again = next(plan.works(torn, 2))
        assert again.experiment == works[index].experiment
        if again.group.measure is None:
            assert again.num_runs == 1 and again.repeat == works[index].repeat
        following = next(plan.works(records[: sizes[index]], 2))
        assert (following.experiment, following.repeat) == (
            works[index + 1].experiment,
            works[index + 1].repeat,
        )


def test_a_run_takes_as_many_steps_as_fill_its_seconds():
    plan = Plan([groups.groups(TWO)[0]], run_seconds=2.0)
    pilot = next(plan.works([], 1))
    assert pilot.experiment == PILOT + "noise-mlp"
    rates = {"1 core": 1_200.0}  # the first run is slow
    records = records_of(pilot, lambda label, _: rates.get(label, 4_800.0))
    work = next(plan.works(records, 1))
    assert work.configs["1 core"].num_steps == work.configs["1 core again"].num_steps == 200


def test_what_failed_is_left_out_until_the_next_slice_and_given_up_then():
    plan = Plan(groups.groups(TWO, (parts.SCALING,)), run_seconds=1.0)
    work = next(plan.works([], 1))
    label = "2 ranks, DDP"
    failure = FailureRecord(
        cause="",
        config=work.configs[label].to_dict(),
        provenance=ORIGIN,
        experiment=work.group.experiment,
        label=label,
    )
    assert label not in next(plan.works([failure], 1)).configs
    assert label in next(plan.works([failure], 2)).configs
    assert label not in next(plan.works([failure, failure], 3)).configs
    base = dataclasses.replace(failure, label="1 core", config=work.configs["1 core"].to_dict())
    assert next(plan.works([base], 1)).group.experiment != work.group.experiment


def test_a_machine_of_many_cores_and_a_gpu_is_surveyed_on_all_of_it():
    plan = groups.groups(MANY)
    assert MANY.rank_counts == [1, 2, 4, 8, 12]
    names = [group.experiment for group in plan]
    assert {f"weak-{model}-{count}" for model in MODELS for count in (2, 4, 8, 12)} <= set(names)
    assert names.index("weak-mlp-12") < names.index("gpu-cores") < names.index("strong-mlp-12")
    for group in plan:
        for config in group.configs.values():
            assert config.num_ranks * max(1, config.num_threads) <= 12
            assert group.measure is not None or group.base in group.configs


@pytest.mark.parametrize("num_cores", [1, 3, 6, 24, 48, 128, 384])
def test_any_number_of_cores_has_a_plan(num_cores):
    place = parts.Place(num_cores=num_cores, num_node_cores=num_cores)
    plan = groups.groups(place)
    names = [group.experiment for group in plan]
    assert names[0] == "noise-mlp" and len(names) == len(set(names))
    assert ("strong-mlp-2" in names) == (num_cores > 1)


def test_noise_is_read_from_the_same_run_twice_and_from_runs_at_once():
    group = groups.groups(TWO)[0]
    rates = {"1 core": 1000.0, "1 core again": 1100.0, "2 ranks": 1800.0, "2 at once": 1500.0}
    records = [
        run_record(config, group.experiment, label, repeat, rates[label])
        for label, config in group.configs.items()
        for repeat in range(3)
    ]
    finding = machines.noise(records)["mlp"]
    again = {"again_low": 1.1, "again_high": 1.1}
    assert finding == {**again, "2 ranks": 0.9, "2 at once": 0.75}


def test_a_survey_without_results_has_no_tables():
    (group,) = groups.groups(TWO, (parts.NOISE,))[:1]
    pilots = [run_record(c, PILOT + group.experiment, name) for name, c in group.configs.items()]
    assert tables.text([]) == tables.text(pilots) == ""
    noise = [run_record(c, group.experiment, name) for name, c in group.configs.items()]
    assert tables.text(noise) == ""


def test_names_say_what_a_machine_is():
    here = machine.describe({})
    assert machine.name_of({**here, "cpu": "AMD EPYC", "num_cores": 2}) == "epyc-2-cores"
    xeon = {"cpu": "Intel(R) Xeon(R) Processor", "num_cores": 16, "gpus": ["NVIDIA H200"]}
    assert machine.name_of({**here, **xeon}) == "xeon-16-cores-h200"
    job = machine.describe({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "8"})
    assert (job["num_cores"], job["num_nodes"]) == (8, 2)


def refusal(*words):
    """Return the one line that a survey is refused with."""
    arguments = commands.parse(["survey", *map(str, words)])
    with pytest.raises(ValueError) as refused:
        survey.run(arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_survey_without_anything_to_measure_or_time_is_refused(tmp_path):
    out = ("--out", tmp_path / "survey")
    assert "0.001 has no room" in refusal("--minutes", 0.001, *out)
    assert "'gpus'; choose from noise" in refusal("--parts", "noise,gpus", *out)
    assert "--parts names nothing" in refusal("--parts", "", *out)
    if not machine.describe()["gpus"]:
        assert "nothing to measure: gpu is skipped: no GPU" in refusal("--parts", "gpu", *out)


def test_a_survey_without_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MIN_FREE_BYTES", 2**60)
    line = refusal("--out", tmp_path / "survey")
    assert "room for records" in line and "--out" in line


@pytest.mark.parametrize("what", ["machine", "code", "nothing"])
def test_the_folder_of_another_survey_is_refused(tmp_path, what):
    description = machine.describe()
    origin = dict(ORIGIN)
    if what == "machine":
        description["cpu"] = "another"
    if what == "code":
        origin["source_sha256"] = "another"
    record = MachineRecord(
        name="x", slice=1, minutes=1.0, parts=[], description=description, provenance=origin
    )
    other = run_record(TWO.config("mlp", 64))
    store.append(tmp_path / survey.FILE, [other if what == "nothing" else record])
    expected = {
        "machine": "another machine: cpu",
        "code": "another version",
        "nothing": "no survey",
    }
    line = refusal("--out", tmp_path)
    assert expected[what] in line and "--out" in line
