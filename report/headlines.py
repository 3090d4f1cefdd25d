"""The claims of the report: sentences computed from records, each with its figure and source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chapter import DATASETS, Chapter
from IPython.display import Markdown

from nnpar_lib.analysis.claims import (
    batch_sizes,
    cpp,
    data_parallelism,
    model_parallelism,
    precision,
)
from nnpar_lib.analysis.cost import calibration, predictions, ways
from nnpar_lib.analysis.cost.cost_model import Architecture, Machine, Model
from nnpar_lib.records.kinds import Record

USUAL = "02_ladder"  # its machine is the one that the report describes


@dataclass(frozen=True)
class Headline:
    """A claim: how its sentence is computed, the names of its records and its figure, and the
    notebook that makes them."""

    name: str
    sentence: Callable[[Chapter], str]
    records: tuple[str, ...]
    figure: str
    notebook: str


def sentences(chapter: Chapter) -> dict[str, str]:
    """Return each claim's sentence by its name; one without its records says so."""
    return {headline.name: _sentence(headline, chapter) for headline in HEADLINES}


def sentence(name: str, chapter: Chapter) -> str:
    """Return the sentence of one claim."""
    return next(_sentence(headline, chapter) for headline in HEADLINES if headline.name == name)


def listing(chapter: Chapter) -> Markdown:
    """Return all claims as a list in MyST, whose figures are cross-references."""
    return Markdown("\n".join(_item(headline, chapter) for headline in HEADLINES))


def _item(headline: Headline, chapter: Chapter) -> str:
    records = ", ".join(f"`{name}`" for name in headline.records)
    return (
        f"1. {_sentence(headline, chapter)}\n   {{numref}}`{headline.figure}`; records {records};"
        f" made by `{headline.notebook}`."
    )


def _sentence(headline: Headline, chapter: Chapter) -> str:
    missing = [
        name for name in headline.records if not list(chapter.results_folder.glob(f"{name}*"))
    ]
    if missing:
        return f"not measured ({', '.join(missing)} is missing)"
    return _on_its_machine(headline, chapter)


def _on_its_machine(headline: Headline, chapter: Chapter) -> str:
    """Return a sentence, which names its machine where that is not the report's own.

    A chapter for each sentence refuses records of several machines.
    """
    of_sentence = twin(chapter)
    sentence = headline.sentence(of_sentence)
    machine = other_machine(chapter, of_sentence)
    return f"On {machine}: {sentence}" if machine else sentence


def twin(chapter: Chapter) -> Chapter:
    """Return a chapter on the same records that has read none yet."""
    return Chapter(str(chapter.results_folder), str(chapter.figures_folder))


def other_machine(chapter: Chapter, reader: Chapter) -> str:
    """Return the machine of what a chapter has read, where that is not the report's own; else
    nothing."""
    usual = twin(chapter)
    usual.records(USUAL)
    return reader.machine if usual.machine and reader.machine != usual.machine else ""


def _ladder(chapter: Chapter) -> str:
    numbers = data_parallelism.ladder(chapter.frame("02_ladder"))
    return (
        f"A first attempt at message passing takes {numbers['ladder-first']:.2f} times as long an"
        " epoch as a tutorial's serial loop; with its causes removed one by one,"
        f" {numbers['num-ranks']} ranks take {numbers['ladder-last']:.1f} times less than that"
        f" loop{_over_best_serial(numbers)}."
    )


def _over_best_serial(numbers: dict[str, Any]) -> str:
    """Return the speedup over the best serial loop; nothing where none was measured."""
    if math.isnan(numbers["ladder-speedup"]):
        return ""
    interval = " [{ladder-speedup-low:.2f}, {ladder-speedup-high:.2f}]".format(**numbers)
    if math.isnan(numbers["ladder-speedup-low"]):
        interval = ""
    return (
        f", but the serial loop, mended in the same way, takes {numbers['ladder-mended']:.1f} times"
        f" less as well: the speedup over that is {numbers['ladder-speedup']:.2f}{interval}"
    )


def _allreduce(chapter: Chapter) -> str:
    numbers = data_parallelism.allreduce(chapter.frame("00_allreduce"))
    return (
        "Summing the gradient of the mlp through shared memory is"
        f" {numbers['shared-factor']:.1f} times as fast as MPI's all-reduce."
    )


def _efficiency(chapter: Chapter) -> str:
    numbers = data_parallelism.efficiencies(chapter.frame("02_weak_scaling"))
    num_ranks = numbers["efficiency-mlp-ranks"]
    sentence = (
        f"{num_ranks} ranks that each take the batch of a serial run reach"
        f" {_of_models(numbers, 'efficiency')}, of {num_ranks} times its images a second (scaled"
        " efficiency)"
    )
    if math.isnan(numbers["same-batch-mlp"]):
        return f"{sentence}."
    whole = _of_models(numbers, "same-batch")
    return (
        f"{sentence}; of {num_ranks} times those of a serial run with their whole batch, {whole}."
    )


def _of_models(numbers: dict[str, Any], name: str) -> str:
    mlp, cnn = (numbers[f"{name}-{model}"] / 100 for model in data_parallelism.MODELS)
    return f"{mlp:.2f} for the mlp and {cnn:.2f} for the cnn"


def _accuracy(chapter: Chapter) -> str:
    numbers = data_parallelism.serial_accuracies(chapter.frame("01_accuracy"))
    parts = [
        f"the {model} reads {numbers[f'accuracy-{model}'] / 100:.2%} of the test images after"
        f" {numbers[f'epochs-{model}']} epochs"
        for model in data_parallelism.MODELS
    ]
    return " and ".join(parts).capitalize() + "."


def _averaging(chapter: Chapter) -> str:
    numbers = data_parallelism.averaging(chapter.frame("02_averaging"))
    serial = numbers["averaging-serial"]
    return (
        f"Averaging gradients ends {numbers['averaging-gradients'] - serial:+.2f} points from"
        " serial training, averaging weights once an epoch"
        f" {numbers['averaging-epoch'] - serial:+.2f}."
    )


def _pipeline(chapter: Chapter) -> str:
    numbers = model_parallelism.bubbles(chapter.records("03_schedules"))
    return (
        f"A pipeline of the cnn is idle {numbers['bubble']:.0f}% of the time, for its layers are"
        f" not equal, and reaches {numbers['share-cnn-1f1b']:.0f}% of what its schedule allows."
    )


def _best_way(chapter: Chapter) -> str:
    grid, models, _ = cost_model_of(chapter)
    best = ways.fastest(ways.side_by_side(grid, models)).sort_values(ways.PROBLEM)
    wins = best["label"].str.replace(", ", " on ").value_counts()
    counts = [f"{name} in {count}" for name, count in wins.items()]
    counts[0] = f"{wins.index[0]} is the fastest way in {wins.iloc[0]}"
    return f"Of {len(best)} pairs of a network and a batch, {', '.join(counts)}."


def _cost_model(chapter: Chapter) -> str:
    grid, models, machine = cost_model_of(chapter)
    errors = predictions.errors(predictions.compare(grid, models, machine)).loc["all"]
    return (
        "A cost model with two numbers per message and two per block predicts the time of a step"
        f" to within {errors['median']:.1%} in the median of {errors['count']:.0f} configurations."
    )


def _larger(chapter: Chapter) -> str:
    _, models, machine = cost_model_of(chapter)
    table = ways.largest_speedups(ways.larger_machines(models, machine))
    best = table.loc[table.groupby(["kind", "num_ranks"], sort=False)["speedup"].idxmax()]
    words = ", ".join(map(_speedup_in_words, best.to_dict("records")))
    return (
        "Predicted, not measured: 128 layers of 1,024 features at a batch of 1,024 have a"
        f" speedup of {words}."
    )


def _speedup_in_words(row: dict[str, Any]) -> str:
    kind = {"cores": "cores", "gpus": "GPUs"}[row["kind"]]
    strategy = row["strategy"].replace("_", " ")
    return f"{row['speedup']:.0f} on {row['num_ranks']} {kind} ({strategy})"


def cost_model_of(
    chapter: Chapter,
) -> tuple[list[Record], dict[Architecture, Model], Machine]:
    """Return the records of all ways side by side, and the cost model as calibrated beside them."""
    costs, grid = map(chapter.records, ("05_costs", "05_grid"))
    num_ranks = max(record.num_ranks for record in grid if not record.oversubscribed)
    return grid, calibration.models(costs, num_ranks), calibration.machine(costs)


def _regimes(chapter: Chapter) -> str:
    study, runs = chapter.study()
    hardest = batch_sizes.hardest_goal(runs)
    fit = hardest.fit
    return (
        f"Doubling the batch halves the steps of the mlp to {hardest.error:.0%} error on"
        f" {DATASETS[study.dataset]} up to a batch of {fit['ends_perfect']:.0f}; beyond"
        f" {fit['begins_maximal']:.0f} it gains next to nothing. The critical batch size is"
        f" {fit['b_crit']:.0f} [{fit['b_crit_low']:.0f}, {fit['b_crit_high']:.0f}]."
    )


def _resnet(chapter: Chapter) -> str:
    layout = precision.layout_numbers(chapter.frame("06_precision"))
    ranks = precision.rank_numbers(chapter.frame("06_ranks"))
    return (
        f"bfloat16 with channels last trains the cnn {layout['faster-cnn']:.2f} and ResNet-18"
        f" {layout['faster-products']:.2f} times as fast, ResNet-18 with its convolutions as"
        f" matrix products; {ranks['num-ranks']} ranks train ResNet-18 with an efficiency of"
        f" {ranks['efficiency-local']:.2f} (local batch statistics) or"
        f" {ranks['efficiency-synchronised']:.2f} (synchronised)."
    )


def _cpp(chapter: Chapter) -> str:
    numbers = cpp.framework_numbers(chapter.frame("07_framework"))
    return (
        f"The same mlp in C++ is {numbers['cpp-ahead-8']:.1f} times as fast as PyTorch at a batch"
        f" of 8 and {numbers['cpp-ahead-1024']:.2f} times at 1,024: what the framework costs"
        " weighs less in a larger batch."
    )


HEADLINES = (
    Headline("ladder", _ladder, ("02_ladder",), "ladder", "02_train_with_data_parallelism"),
    Headline("allreduce", _allreduce, ("00_allreduce",), "allreduce", "00_check_your_machine"),
    Headline(
        "efficiency", _efficiency, ("02_weak_scaling",), "weak", "02_train_with_data_parallelism"
    ),
    Headline("accuracy", _accuracy, ("01_accuracy",), "averaging", "01_train_the_serial_baseline"),
    Headline(
        "averaging", _averaging, ("02_averaging",), "averaging", "02_train_with_data_parallelism"
    ),
    Headline("pipeline", _pipeline, ("03_schedules",), "gantt", "03_train_with_model_parallelism"),
    Headline(
        "best-way", _best_way, ("05_grid",), "speedups", "05_compare_data_and_model_parallelism"
    ),
    Headline(
        "cost-model",
        _cost_model,
        ("05_costs", "05_grid"),
        "predicted",
        "05_compare_data_and_model_parallelism",
    ),
    Headline(
        "larger",
        _larger,
        ("05_costs", "05_grid"),
        "predicted-cores",
        "05_compare_data_and_model_parallelism",
    ),
    Headline("regimes", _regimes, ("04_runs",), "regimes", "04_find_the_scaling_regimes"),
    Headline(
        "resnet",
        _resnet,
        ("06_precision", "06_ranks"),
        "precision-speedups",
        "06_use_the_gpu_and_precision",
    ),
    Headline("cpp", _cpp, ("07_framework",), "cpp-framework", "07_compare_with_cpp"),
)
