"""What a survey measures: groups of runs that are compared, the most telling groups first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnpar_lib.analysis.cost import blind
from nnpar_lib.analysis.cost.blind import TWO_RANKS
from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import STRATEGIES
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.experiments import gpu
from nnpar_lib.experiments.measuring import Part
from nnpar_lib.experiments.survey.group import (
    BLOCKS,
    CPP,
    CUTS,
    EXCHANGE,
    GPU,
    NOISE,
    PARTS,
    PREDICTED,
    PREDICTIONS,
    SCALING,
    Group,
    Measure,
    Place,
)
from nnpar_lib.launch.engines import Engines
from nnpar_lib.records import store
from nnpar_lib.records.kinds import PredictionRecord
from nnpar_lib.records.provenance import provenance

LOCAL_BATCH_SIZES = {"mlp": 64, "cnn": 32, "resnet18": 16}
STRONG_BATCH_SIZES = {"mlp": 256, "cnn": 128, "resnet18": 64}
# of no other group: predictions are made before those
NOISE_BATCH_SIZES = {"mlp": 48, "cnn": 24, "resnet18": 12}
ALLREDUCES = ("shared", "mpi")
ALLREDUCE_SIZES = (1_000, 10_000, 100_000, 235_146, 1_000_000, 3_000_000)
MESSAGE_SIZES = (1_000, 10_000, 100_000, 1_000_000)
PROFILE_BATCH_SIZES = {"mlp": (8, 64, 256), "cnn": (8, 32, 128), "resnet18": (4, 16, 64)}
NUM_PROFILES = 2  # of each model and batch size
DEEP = (256,) * 7  # hidden widths of an mlp with a block for each of 8 ranks
CUT_RANK_COUNTS = (2, 4, 8)
NUM_MICROBATCHES = 8
NUM_BLOCKS = {"mlp": len(DEEP) + 1, "cnn": 4, "resnet18": 10}

ALONE = "1 core"
AGAIN = "1 core again"
Ways = dict[str, dict[str, Any]]


def groups(place: Place, parts: Sequence[str] = PARTS) -> list[Group]:
    """Return all groups of some parts in the order of their first measurement."""
    before = [*_noise(place), *_exchange(place), *_blocks(place)]
    cuts = [*_cuts(place), *_cpp(place)]
    runs = [*_weak(place), *_gpu(place), *cuts, *_strong(place)]
    runs = [group for group in runs if group.part in parts]
    before = [group for group in (*before, *_predictions(runs)) if group.part in parts]
    return [*before, *runs]


def _predictions(runs: Sequence[Group]) -> list[Group]:
    """Return the group that writes down what is predicted of the runs that come after it."""
    configs = {
        f"{group.experiment}: {label}": config
        for group in runs
        if group.part in PREDICTED
        for label, config in group.configs.items()
    }
    if not configs:
        return []
    return [
        Group(
            part=PREDICTIONS,
            experiment=PREDICTIONS,
            configs=configs,
            measure=_predict,
            num_records=len(configs),
            seconds=1.0,
        )
    ]


def _predict(ranks: Engines, group: Group, out: Path) -> None:
    """Append a prediction for each config; no rank does anything."""
    costs = blind.Costs(store.load(out))
    origin = {**provenance(), **ranks.origin}
    predictions = []
    for name, config in group.configs.items():
        experiment, _, label = name.partition(": ")
        prediction = blind.predict(config, costs)
        predictions.append(
            PredictionRecord(
                predicted_seconds=prediction.seconds,
                waiting_seconds=prediction.waiting_seconds,
                basis=prediction.basis,
                config=config.to_dict(),
                provenance=origin,
                experiment=experiment,
                label=label,
            )
        )
    store.append(out, predictions)


def _noise(place: Place) -> list[Group]:
    return [
        _noise_of(place, model, size)
        for model, size in NOISE_BATCH_SIZES.items()
        if model in place.models
    ]


def _noise_of(place: Place, model: str, size: int) -> Group:
    """The same run twice, two ranks that wait for each other, and independent runs at once.

    Independent runs are weight averaging that ends before its first average.
    """
    configs = {ALONE: place.config(model, size), AGAIN: place.config(model, size)}
    if place.num_cores > 1:
        configs[TWO_RANKS] = place.config(
            model, 2 * size, strategy="gradient_averaging", num_ranks=2
        )
    for count in _counts_that_fit(place, size):
        configs[f"{count} at once"] = place.config(
            model,
            size * count,
            strategy="weight_averaging",
            average_every=10**6,
            num_ranks=count,
        )
    return Group(part=NOISE, experiment=f"noise-{model}", configs=configs, base=ALONE)


def _exchange(place: Place) -> list[Group]:
    counts = place.rank_counts[1:]
    if not counts:
        return []
    sweeps = [
        Group(
            part=EXCHANGE,
            experiment=f"allreduce-{count}",
            measure=_allreduces(count),
            num_records=len(ALLREDUCES) * len(ALLREDUCE_SIZES),
        )
        for count in reversed(counts)
    ]
    messages = Group(
        part=EXCHANGE,
        experiment="messages",
        measure=_messages,
        num_records=len(MESSAGE_SIZES),
    )
    barriers = Group(
        part=EXCHANGE,
        experiment="barriers",
        measure=_barriers(counts),
        num_records=len(counts),
    )
    return [messages, *sweeps, barriers]


def _allreduces(count: int) -> Measure:
    def measure(ranks: Engines, group: Group, out: Path) -> None:
        ranks.sweep_allreduces(
            ALLREDUCES,
            ALLREDUCE_SIZES,
            num_ranks=count,
            num_repeats=5,
            experiment=group.experiment,
            results_file=out,
        )

    return measure


def _messages(ranks: Engines, group: Group, out: Path) -> None:
    ranks.sweep_messages(MESSAGE_SIZES, experiment=group.experiment, results_file=out)


def _barriers(counts: Sequence[int]) -> Measure:
    def measure(ranks: Engines, group: Group, out: Path) -> None:
        ranks.sweep_barriers(counts, experiment=group.experiment, results_file=out)

    return measure


def _blocks(place: Place) -> list[Group]:
    """Profiles of every network that is trained later, on one core and on all at once."""
    networks = {model: place.config(model, LOCAL_BATCH_SIZES[model]) for model in place.models}
    if "mlp" in place.models:
        networks["deep"] = place.config("mlp", STRONG_BATCH_SIZES["mlp"], hidden=DEEP)
    counts = {1, place.num_cores}
    return [
        Group(
            part=BLOCKS,
            experiment=f"blocks-{name}",
            configs={name: config},
            measure=_profiles,
            num_records=NUM_PROFILES * len(counts) * len(PROFILE_BATCH_SIZES[config.model]),
            seconds=6.0,
        )
        for name, config in networks.items()
    ]


def _profiles(ranks: Engines, group: Group, out: Path) -> None:
    configs = list(group.configs.values())
    ranks.profile_blocks(
        configs,
        [PROFILE_BATCH_SIZES[config.model] for config in configs],
        num_repeats=NUM_PROFILES,
        experiment=group.experiment,
        results_file=out,
    )


def _weak(place: Place) -> list[Group]:
    """A fixed local batch, on all cores first."""
    return [
        _scaling(place, f"weak-{model}-{count}", model, count, LOCAL_BATCH_SIZES[model])
        for count in reversed(place.rank_counts[1:])
        for model in place.models
        if count in _counts_that_fit(place, LOCAL_BATCH_SIZES[model])
    ]


def _counts_that_fit(place: Place, local: int) -> list[int]:
    """Return the numbers of ranks, from 2 on, whose batches are no larger than the data set."""
    most = NUM_TRAINING_EXAMPLES[place.dataset] // local
    return [count for count in place.rank_counts[1:] if count <= most]


def _strong(place: Place) -> list[Group]:
    """A fixed global batch."""
    return [
        _scaling(place, f"strong-{model}-{count}", model, count, 0)
        for count in reversed(place.rank_counts[1:])
        for model in place.models
    ]


def _scaling(place: Place, experiment: str, model: str, count: int, local: int) -> Group:
    """Compare the ways to use `count` cores with one core.

    A local batch of 0 stands for a global batch that stays.
    """
    size = local * count if local else max(STRONG_BATCH_SIZES[model], 4 * count)
    alone = place.config(model, local or size)
    ways = {
        label: place.config(model, size, **way) for label, way in _ways(place, model, count).items()
    }
    return Group(part=SCALING, experiment=experiment, configs={ALONE: alone, **ways}, base=ALONE)


def _ways(place: Place, model: str, count: int) -> Ways:
    """Return the ways to use so many cores: ranks, threads, and threads of several ranks."""
    ranks: dict[str, Any] = {"strategy": "gradient_averaging", "num_ranks": count}
    ways: Ways = {
        f"{count} ranks, shared": {**ranks, "allreduce": "shared"},
        f"{count} ranks, mpi": {**ranks, "allreduce": "mpi"},
        f"{count} ranks, DDP": {"strategy": "torch_ddp", "num_ranks": count},
        f"{count} ranks, DDP tuned": {
            "strategy": "torch_ddp",
            "num_ranks": count,
            "ddp_tuned": True,
        },
    }
    if model == "mlp":  # whose steps are recorded on a CPU, too
        ways[f"{count} ranks, shared, recorded"] = {**ranks, "allreduce": "shared", "record": True}
    if count <= place.num_node_cores:
        ways[f"{count} threads"] = {"num_threads": count}
    if count >= 4 and count % 4 == 0:
        num_threads = 4 if count >= 16 else 2
        shape = {"num_ranks": count // num_threads, "num_threads": num_threads}
        label = f"{shape['num_ranks']} ranks x {num_threads} threads"
        ways[label] = {**ranks, **shape, "allreduce": "shared"}
    return ways


def _cuts(place: Place) -> list[Group]:
    """Ways to cut a model, or to share its state, at the same global batch."""
    counts = [count for count in CUT_RANK_COUNTS if count <= place.num_cores]
    return [_cut(place, model, count) for count in reversed(counts) for model in place.models]


def _cut(place: Place, model: str, count: int) -> Group:
    changes: dict[str, Any] = {"hidden": DEEP} if model == "mlp" else {}
    size = STRONG_BATCH_SIZES[model]
    stages: dict[str, Any] = {"num_microbatches": NUM_MICROBATCHES, "balance": "measured"}
    ways: Ways = {f"{count} ranks, shared": {"strategy": "gradient_averaging"}}
    if count <= NUM_BLOCKS[model]:
        ways[f"{count} stages"] = {"strategy": "pipeline", **stages}
    if model != "resnet18":
        ways[f"{count} ranks, tensor"] = {"strategy": "tensor"}
    if count >= 4:
        ways[f"{count // 2} x 2 stages"] = {"strategy": "hybrid", "pipeline_size": 2, **stages}
    if "sharded" in STRATEGIES:
        ways[f"{count} ranks, sharded"] = {"strategy": "sharded"}
    configs = {ALONE: place.config(model, size, **changes)}
    for label, way in ways.items():
        configs[label] = place.config(model, size, num_ranks=count, **way, **changes)
    return Group(part=CUTS, experiment=f"cuts-{model}-{count}", configs=configs, base=ALONE)


def _cpp(place: Place) -> list[Group]:
    """The program in C++ on one core, by threads and by ranks, beside PyTorch on one core."""
    if not place.has_compiler or "mlp" not in place.models:
        return []
    counts = _counts_that_fit(place, LOCAL_BATCH_SIZES["mlp"])
    return [_cpp_on(place, count) for count in reversed(counts)]


def _cpp_on(place: Place, count: int) -> Group:
    local = LOCAL_BATCH_SIZES["mlp"]
    ways: Ways = {"C++, 1 core": {}}
    if count <= place.num_node_cores:
        ways[f"C++, {count} threads"] = {"num_threads": count}
    for kind in ALLREDUCES:
        ways[f"C++, {count} ranks, {kind}"] = {"num_ranks": count, "allreduce": kind}
    configs = {ALONE: place.config("mlp", local)}
    for label, way in ways.items():
        size = local * (count if way else 1)
        configs[label] = place.config("mlp", size, strategy="cpp", **way)
    return Group(part=CPP, experiment=f"cpp-mlp-{count}", configs=configs, base=ALONE)


def _gpu(place: Place) -> list[Group]:
    """What `gpu` measures, in the same groups; nothing where there is no GPU."""
    if place.num_gpus == 0:
        return []
    sizes = gpu.Sizes(
        examples=gpu.FULL.examples,
        models=place.models,
        num_cores=place.num_node_cores,
        num_gpus=place.num_gpus,
    )
    parts = gpu.plan("cuda", place.dataset, sizes)
    return [_of_gpu_part(part, configs) for part in parts for configs in part.groups]


def _of_gpu_part(part: Part, configs: Mapping[str, RunConfig]) -> Group:
    measure = part.measure
    if measure is None:
        return Group(
            part=GPU,
            experiment=part.experiment,
            configs=configs,
            base=next(iter(configs)),
            given_steps=True,
        )

    def once(ranks: Engines, group: Group, out: Path) -> None:
        measure(ranks, list(group.configs.values()), experiment=group.experiment, results_file=out)

    return Group(
        part=GPU,
        experiment=part.experiment,
        configs=configs,
        measure=once,
        num_records=6 if part.experiment == "gpu-sweep" else len(configs),
        seconds=20.0,
    )
