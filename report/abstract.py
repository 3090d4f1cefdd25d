"""The abstract: for each question of the report, numbers from records and the sentences that say
them.

Which word stands in a sentence depends on the numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chapter import Chapter, surveys
from headlines import cost_model_of, other_machine, twin

from nnpar_lib.analysis.claims import (
    abstract,
    batch_sizes,
    cpp,
    data_parallelism,
    machines,
    model_parallelism,
)
from nnpar_lib.analysis.cost import comparison, predictions, ways
from nnpar_lib.analysis.regimes import time_to_goal

Numbers = dict[str, Any]
WHEN_BATCHES = (
    "A larger batch pays while a step takes hardly longer, and not far beyond the critical size."
)


@dataclass(frozen=True)
class Answer:
    """A question of the report: the files of its records, its numbers, and the sentences that say
    them; these may use the numbers of the answers before."""

    name: str
    records: tuple[str, ...]
    numbers: Callable[[Chapter], Numbers]
    sentences: Callable[[Numbers], str]


def answers(chapter: Chapter) -> tuple[Numbers, dict[str, str]]:
    """Return the numbers of the abstract and its sentences, both by name.

    An answer whose records are missing says so. One from another machine than the report's own
    names it: each has a chapter of its own, which refuses records of two machines.
    """
    numbers: Numbers = {}
    texts = {}
    for answer in ANSWERS:
        if not all(list(chapter.results_folder.glob(f"{name}*")) for name in answer.records):
            texts[answer.name] = "This was not measured here."
            continue
        of_answer = twin(chapter)
        numbers |= answer.numbers(of_answer)
        machine = other_machine(chapter, of_answer)
        where = f"(On {machine}.) " if machine else ""
        texts[answer.name] = where + answer.sentences(numbers)
    return numbers, texts


def _doubling_numbers(chapter: Chapter) -> Numbers:
    _, runs = chapter.study()
    hardest = batch_sizes.hardest_goal(runs)
    measured = chapter.frame("04_runs")
    steps = time_to_goal.step_seconds(measured)
    seconds = batch_sizes.seconds_numbers(batch_sizes.seconds(hardest, measured), measured)
    sizes = time_to_goal.doublings(hardest.runs, steps)
    return abstract.doublings(sizes) | {
        "abstract-goal": 100 * hardest.error,
        "abstract-critical": hardest.fit["b_crit"],
        "abstract-smallest-doubled": sizes["batch_size"].min(),
        "abstract-largest-batch": 2 * sizes["batch_size"].max(),
        "abstract-best-batch-one": seconds["regimes-best-batch-one"],
        "abstract-best-batch-all": seconds["regimes-best-batch-all"],
    }


def _doubling(n: Numbers) -> str:
    reach = _where("none beyond", n["abstract-halved-to-steps"])
    vain = _where("from", n["abstract-no-gain-from-steps"])
    return (
        f"The steps of the mlp to {n['abstract-goal']:.0f} % error are halved by"
        f" {_count(n['abstract-halved-steps'])} of the {n['abstract-doublings-steps']} doublings of"
        f" the batch from {n['abstract-smallest-doubled']} to"
        f" {n['abstract-largest-batch']:,}{reach}, and hardly reduced by"
        f" {_count(n['abstract-no-gain-steps'])}{vain}; the critical batch size is"
        f" {n['abstract-critical']:.0f}. The time is halved by"
        f" {_count(n['abstract-halved-seconds-one'])} of them on one rank and by"
        f" {_count(n['abstract-halved-seconds-all'])} on {n['abstract-ranks']:.0f} ranks; it is"
        f" shortest at batches of {n['abstract-best-batch-one']} and"
        f" {n['abstract-best-batch-all']}."
    )


def _two_cores_numbers(chapter: Chapter) -> Numbers:
    grid, models, _ = cost_model_of(chapter)
    weak = data_parallelism.efficiencies(chapter.frame("02_weak_scaling"))
    goals = model_parallelism.FULL_GOALS
    lost = comparison.accuracy(chapter.frame("05_accuracy"), goals)
    small = abstract.small_batches(chapter.frame("02_threads_against_ranks"))
    return {
        "abstract-ranks": weak["efficiency-mlp-ranks"],
        **abstract.ranks_of_ways(ways.side_by_side(grid, models)),
        **{f"abstract-efficiency-{m}": weak[f"efficiency-{m}"] for m in data_parallelism.MODELS},
        **abstract.accuracy_lost(lost),
        **small,
    }


def _two_cores(n: Numbers) -> str:
    pipeline = _range(n, "abstract-pipeline")
    ahead = {name: n[f"abstract-{name}-ahead"] for name in abstract.WAYS}
    return (
        f"On {n['abstract-ranks']} cores, for {n['abstract-problems']} pairs of a network and a"
        f" batch, data parallelism has {_range(n, 'abstract-data')} times the rate of the best"
        f" serial run (more than it in {_count(ahead['data'])}), pipelines have {pipeline} (in"
        f" {_count(ahead['pipeline'])}), and layers cut by width {_range(n, 'abstract-tensor')} (in"
        f" {_count(ahead['tensor'])}). At a fixed local batch a rank keeps"
        f" {n['abstract-efficiency-mlp']:.0f} % (mlp) and {n['abstract-efficiency-cnn']:.0f} %"
        f" (cnn) of its rate alone. All these end within {n['abstract-lost-exact']:.2f} points of"
        f" serial accuracy; averaging weights once an epoch loses"
        f" {max(0, n['abstract-lost-averaging']):.1f}."
    )


def _larger_numbers(chapter: Chapter) -> Numbers:
    grid, models, machine = cost_model_of(chapter)
    frame = machines.side_by_side(surveys())
    return {
        "abstract-ranks": max(run.num_ranks for run in grid if not run.oversubscribed),
        **abstract.prediction_error(predictions.compare(grid, models, machine)),
        **abstract.predicted(ways.larger_machines(models, machine)),
        **abstract.many_cores(frame),
        **abstract.gpus(frame),
    }


def _larger(n: Numbers) -> str:
    return " ".join(filter(None, (_many_cores(n), _one_gpu(n), _predicted(n))))


def _many_cores(n: Numbers) -> str:
    if "abstract-cores" not in n:
        return ""
    return (
        f"On {n['abstract-cores']:.0f} cores a rank keeps {n['abstract-cores-efficiency']:.0f} %;"
        f" ranks have {_range(n, 'abstract-cores-threads')} times the rate of threads."
    )


def _one_gpu(n: Numbers) -> str:
    if "abstract-gpu-low" not in n:
        return ""
    return (
        f"One GPU is {n['abstract-gpu-low']:.0f} to {n['abstract-gpu-high']:.0f} times as fast as"
        f" all cores beside it; ranks that share it have {_range(n, 'abstract-gpu-ranks')} times"
        " the rate of one."
    )


def _predicted(n: Numbers) -> str:
    checked = ""
    if "abstract-cores-error" in n:
        checked = (
            f" and, extrapolated, by {n['abstract-cores-error']:.0f} % on {n['abstract-cores']:.0f}"
            f" ({n['abstract-cores-error-waiting']:.0f} % with waiting)"
        )
    return (
        f"A cost model, off by {n['abstract-model-error']:.0f} % (median) on {n['abstract-ranks']}"
        f" cores{checked}, predicts for 128 wide layers speedups of {n['abstract-cores-64']:.0f} on"
        f" 64 cores and {n['abstract-gpus-8']:.1f} and {n['abstract-gpus-16']:.1f} on 8 and 16"
        " GPUs."
    )


def _time_numbers(chapter: Chapter) -> Numbers:
    weak = chapter.frame("02_weak_scaling")
    return abstract.shares("abstract", weak[weak["model"] == "mlp"])


def _time(n: Numbers) -> str:
    elsewhere = ""
    if "abstract-cores" in n:
        elsewhere = (
            f"; on {n['abstract-cores']:.0f} cores {n['abstract-cores-compute']:.0f},"
            f" {n['abstract-cores-communicate']:.0f} and {n['abstract-cores-wait']:.0f} %"
        )
    return (
        f"Of a step of the mlp on two ranks, {n['abstract-compute']:.0f} % is computing,"
        f" {n['abstract-communicate']:.0f} % the exchange and {n['abstract-wait']:.0f} %"
        f" waiting{elsewhere}."
    )


def _cpp_numbers(chapter: Chapter) -> Numbers:
    ahead = cpp.framework_numbers(chapter.frame("07_framework"))
    efficiencies = cpp.efficiencies(chapter.frame("07_messages"))
    return {
        "abstract-cpp-8": ahead["cpp-ahead-8"],
        "abstract-cpp-1024": ahead["cpp-ahead-1024"],
        "abstract-cpp-efficiency": 100 * efficiencies["efficiency-cpp-shared"],
        "abstract-torch-efficiency": 100 * efficiencies["efficiency-torch-shared"],
    }


def _cpp(n: Numbers) -> str:
    return (
        f"In C++ the mlp trains {n['abstract-cpp-8']:.1f} times as fast as in PyTorch at a batch of"
        f" 8 and {n['abstract-cpp-1024']:.1f} times at 1,024; of its rate alone a rank of two"
        f" keeps {n['abstract-cpp-efficiency']:.0f} % in C++ and"
        f" {n['abstract-torch-efficiency']:.0f} % in PyTorch."
    )


def _advice(n: Numbers) -> str:
    return " ".join((_when_ranks(n), WHEN_BATCHES, _when_cut(n)))


def _when_ranks(n: Numbers) -> str:
    smallest = n["abstract-smallest-batch"]
    pays_from = n["abstract-pays-from"]
    if math.isnan(pays_from):
        return "Hence the mlp gains from a second rank at no batch that was measured."
    sentence = f"Hence the mlp gains from a second rank from a batch of {pays_from:.0f} on"
    if pays_from == smallest:
        return f"{sentence}, the smallest that was measured."
    gain = n["abstract-smallest-gain"]
    return f"{sentence}; at {smallest} two have {gain:.2f} times the best serial rate."


def _when_cut(n: Numbers) -> str:
    if n["abstract-pipeline-ahead"] == 0:
        return "A model is to be cut between its layers only where it does not fit on a rank."
    return (
        "A model is to be cut between its layers where it does not fit on a rank; else it paid in"
        f" {n['abstract-pipeline-ahead']} of {n['abstract-problems']} cases."
    )


def _where(words: str, batch: float) -> str:
    return "" if math.isnan(batch) else f" ({words} {batch:,.0f})"


def _range(n: Numbers, prefix: str) -> str:
    return f"{n[f'{prefix}-low']:.2f} to {n[f'{prefix}-high']:.2f}"


def _count(number: int) -> str:
    return str(number) if number else "none"


TWO_CORES = ("05_costs", "05_grid", "05_accuracy", "02_weak_scaling", "02_threads_against_ranks")
ANSWERS = (
    Answer("doubling", ("04_runs",), _doubling_numbers, _doubling),
    Answer("two-cores", TWO_CORES, _two_cores_numbers, _two_cores),
    Answer("larger", ("05_costs", "05_grid"), _larger_numbers, _larger),
    Answer("time", ("05_costs", "05_grid", "02_weak_scaling"), _time_numbers, _time),
    Answer("cpp", ("07_framework", "07_messages"), _cpp_numbers, _cpp),
    Answer("advice", TWO_CORES, lambda chapter: {}, _advice),
)
