"""What the report claims, each in a sentence that is computed from records, with where to look and
how to make it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chapter import DATASETS, Chapter
from IPython.display import Markdown

from nnpar_lib.analysis import regimes, scaling
from nnpar_lib.analysis.cost import calibration, comparison, predictions, traced_pipelines
from nnpar_lib.analysis.scaling import precision
from nnpar_lib.experiments import regimes_study
from nnpar_lib.records import store


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
    """Return each claim's sentence by its name; one whose records are not there says so."""
    return {one.name: _sentence(one, chapter) for one in HEADLINES}


def listing(chapter: Chapter) -> Markdown:
    """Return all claims as a list in MyST, whose figures are cross-references."""
    return Markdown(
        "\n".join(
            f"1. {_sentence(one, chapter)}\n   {{numref}}`{one.figure}`; records"
            f" {', '.join(f'`{name}`' for name in one.records)}; made by `{one.notebook}`."
            for one in HEADLINES
        )
    )


def _sentence(headline: Headline, chapter: Chapter) -> str:
    missing = [
        name for name in headline.records if not list(chapter.results_folder.glob(f"{name}*"))
    ]
    return (
        f"not measured ({', '.join(missing)} is missing)" if missing else headline.sentence(chapter)
    )


def _ladder(chapter: Chapter) -> str:
    ladder = chapter.frame("02_ladder")
    epoch = scaling.seconds_per_epoch(ladder).groupby(ladder["label"], sort=False).median()
    return (
        "A first attempt at message passing takes"
        f" {epoch['root and workers'] / epoch['serial']:.2f} times as long an epoch as a tutorial's"
        f" serial loop; with its causes mended one by one, {ladder['num_ranks'].max()} ranks take"
        f" {epoch['serial'] / epoch['+ shared memory']:.1f} times less than that loop."
    )


def _allreduce(chapter: Chapter) -> str:
    seconds = scaling.bandwidth(chapter.frame("00_allreduce")).set_index(
        ["num_elements", "allreduce"]
    )["seconds"]
    return (
        "Summing the gradient of the mlp through shared memory is"
        f" {seconds[235_146, 'mpi'] / seconds[235_146, 'shared']:.1f} times as fast as MPI's"
        " all-reduce."
    )


def _efficiency(chapter: Chapter) -> str:
    weak = scaling.weak_scaling(chapter.frame("02_weak_scaling"))
    shared = weak[(weak["strategy"] == "gradient_averaging") & (weak["allreduce"] == "shared")]
    most = shared[shared["num_ranks"] == shared["num_ranks"].max()].set_index("model")
    return (
        f"With the same work for each, {most['num_ranks'].max()} ranks have a parallel efficiency"
        f" of {most.loc['mlp', 'efficiency']:.2f} for the mlp and"
        f" {most.loc['cnn', 'efficiency']:.2f} for the cnn, with the weights of a serial run."
    )


def _accuracy(chapter: Chapter) -> str:
    accuracy = chapter.frame("01_accuracy").set_index("model")
    return (
        " and ".join(
            f"the {model} reads {accuracy.loc[model, 'final_test_accuracy']:.2%} of the test images"
            f" after {accuracy.loc[model, 'num_epochs']} epochs"
            for model in ("mlp", "cnn")
        ).capitalize()
        + "."
    )


def _averaging(chapter: Chapter) -> str:
    runs = chapter.frame("02_averaging")
    found = scaling.accuracy(runs[runs["model"] == "mlp"], ["strategy", "average_every"]).set_index(
        ["strategy", "average_every"]
    )["median"]
    return (
        "Averaging gradients ends"
        f" {100 * (found['gradient_averaging', 0] - found['serial', 0]):+.2f} points from serial"
        " training, averaging weights once an epoch"
        f" {100 * (found['weight_averaging', 0] - found['serial', 0]):+.2f}."
    )


def _pipeline(chapter: Chapter) -> str:
    traced = [
        record
        for record in store.load(chapter.results_folder / "03_schedules.jsonl")
        if any(record.events)
    ]
    found = traced_pipelines.table(traced).set_index("label")
    return (
        f"A pipeline of the cnn is idle {found.loc['cnn, 1f1b', 'bubble']:.0%} of the time, for its"
        f" layers are not equal, and reaches {found.loc['cnn, 1f1b', 'share']:.0%} of what its"
        " schedule allows."
    )


def _best_way(chapter: Chapter) -> str:
    speed = comparison.speed(chapter.frame("05_grid"))
    real = speed[~speed["oversubscribed"]]
    wins = real.loc[
        real.groupby(["num_parameters", "global_batch_size"])["speedup"].idxmax(), "label"
    ]
    most = wins.str.replace(", ", " on ").value_counts()
    return (
        f"Of {len(wins)} pairs of a network and a batch, {most.index[0]} is the fastest way in"
        f" {most.iloc[0]}"
        + "".join(f", {name} in {count}" for name, count in most.iloc[1:].items())
        + "."
    )


def _cost_model(chapter: Chapter) -> str:
    costs, grid = (
        store.load(chapter.results_folder / f"05_{name}.jsonl") for name in ("costs", "grid")
    )
    num_ranks = max(record.num_ranks for record in grid if not record.oversubscribed)
    found = predictions.compare(
        grid, calibration.models(costs, num_ranks), calibration.machine(costs)
    )
    return (
        "Two numbers a message and two a block foretell the time of a step to"
        f" {predictions.median_error(found):.1%} in the median of"
        f" {(~found['oversubscribed']).sum()} configurations."
    )


def _larger(chapter: Chapter) -> str:
    costs, grid = (
        store.load(chapter.results_folder / f"05_{name}.jsonl") for name in ("costs", "grid")
    )
    num_ranks = max(record.num_ranks for record in grid if not record.oversubscribed)
    machine, models = calibration.machine(costs), calibration.models(costs, num_ranks)
    cores = predictions.cores_like(
        models[max(models, key=lambda key: models[key].parameter_bytes)], machine
    )
    words = []
    for one, sizes, kind in ((cores, (64, 128), "cores"), (predictions.V100, (8, 16), "GPUs")):
        for p in sizes:
            rows = predictions.predict(one, num_ranks=p, global_batch_size=1024, num_layers=128)
            best = rows.loc[rows["speedup"].idxmax()]
            words.append(
                f"{best['speedup']:.0f} on {p} {kind} ({best['strategy'].replace('_', ' ')})"
            )
    return (
        "Predicted, not measured: 128 layers of 1,024 features at a batch of 1,024 have a"
        " speedup of " + ", ".join(words) + "."
    )


def _regimes(chapter: Chapter) -> str:
    own = chapter.results_folder / "04_mlp_sgd.json"
    study, runs = (
        regimes_study.load(own)
        if own.exists()
        else regimes_study.load_all("results/regimes")["mlp-sgd"]
    )
    goal = regimes.hardest_goal(regimes.study(runs))
    fit = regimes.fits(runs[runs["goal_error"] == goal]).query("preferred").iloc[0]
    return (
        f"Doubling the batch halves the steps of the mlp to {goal:.0%} error on"
        f" {DATASETS[study.dataset]} up to a batch of {fit['ends_perfect']:.0f}; beyond"
        f" {fit['begins_maximal']:.0f} it gains next to nothing. The critical batch size is"
        f" {fit['b_crit']:.0f} [{fit['b_crit_low']:.0f}, {fit['b_crit_high']:.0f}]."
    )


def _resnet(chapter: Chapter) -> str:
    faster = precision.speedups(chapter.frame("06_precision"), "plain float32").set_index(
        ["model", "label"]
    )["speedup"]
    both = precision.speedups(chapter.frame("06_ranks"), "serial").set_index("label")["speedup"]
    num_ranks = chapter.frame("06_ranks")["num_ranks"].max()
    return (
        f"bfloat16 with channels last trains the cnn {faster['cnn', 'bf16, channels last']:.2f} and"
        f" ResNet-18 {faster['resnet18', 'bf16, channels last, im2col']:.2f} times as fast,"
        f" ResNet-18 with its convolutions as matrix products; {num_ranks} ranks train ResNet-18"
        f" with an efficiency of {both['statistics local'] / num_ranks:.2f} (local batch"
        f" statistics) or {both['statistics synchronised'] / num_ranks:.2f} (synchronised)."
    )


def _cpp(chapter: Chapter) -> str:
    framework = chapter.frame("07_framework")
    ratio = {
        batch: (
            scaling.paired_ratio(
                framework,
                {"strategy": "serial", "global_batch_size": batch},
                {"strategy": "cpp", "global_batch_size": batch},
            ).median
        )
        for batch in (8, 1024)
    }
    return (
        f"The same mlp in C++ is {ratio[8]:.1f} times as fast as PyTorch at a batch of 8 and"
        f" {ratio[1024]:.2f} times at 1,024: what the framework costs weighs less in a larger"
        " batch."
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
