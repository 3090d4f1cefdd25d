"""The lists of runs that notebooks compare, where a list is only bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnpar_lib.analysis.cost.cost_model import Architecture, Model, architecture, best_balance
from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import StudyConfig
from nnpar_lib.launch.notebook import choose
from nnpar_lib.schedules import SCHEDULES

UNTIL_STOPPED: dict[str, Any] = {"num_epochs": 1000, "lr": 0.01, "evaluate_every": 0}


def on_threads(dataset: str, thread_counts: Sequence[int], preset: str) -> list[RunConfig]:
    """Return serial runs of the mlp and the cnn for each number of threads."""
    steps = choose(preset, quick={"mlp": 120, "cnn": 6}, full={"mlp": 300, "cnn": 12})
    return [
        RunConfig(
            dataset=dataset,
            model=model,
            num_threads=threads,
            global_batch_size=batch,
            num_steps=steps[model],
            **UNTIL_STOPPED,
        )
        for model, batch in (("mlp", 64), ("mlp", 512), ("cnn", 64))
        for threads in thread_counts
    ]


def scaling(
    dataset: str,
    ways: Sequence[dict[str, Any]],
    rank_counts: Sequence[int],
    steps: dict[str, int],
    *,
    global_batch: dict[str, int] | None = None,
    local_batch: dict[str, int] | None = None,
    serial_too: bool = False,
) -> list[RunConfig]:
    """Return each way on each number of ranks, and serial runs for one rank.

    Either the global batch is fixed (strong scaling), or the batch of each rank (weak scaling);
    with `serial_too` the global batch of each number of ranks is trained serially as well.
    """
    serial = {"strategy": "serial", "num_ranks": 1}
    also = [serial] if serial_too else []
    return [
        RunConfig(
            dataset=dataset,
            model=model,
            num_threads=1,
            num_steps=steps[model],
            global_batch_size=local_batch[model] * p if local_batch else size,
            **{"num_ranks": p, **way},
            **UNTIL_STOPPED,
        )
        for model, size in (local_batch or global_batch or {}).items()
        for p in rank_counts
        for way in ([*ways, *also] if p > 1 else [serial])
    ]


def threads_or_ranks(
    dataset: str, num_cores: int, batches: Sequence[int], preset: str
) -> list[RunConfig]:
    """Return runs on one core, on all cores with threads, and on all cores with ranks."""
    ways: list[dict[str, Any]] = [
        {"num_threads": 1},
        {"num_threads": num_cores},
        {"strategy": "gradient_averaging", "num_ranks": num_cores, "num_threads": 1},
    ]
    num_steps = choose(preset, quick=40, full=100)
    return [
        RunConfig(
            dataset=dataset, num_steps=num_steps, global_batch_size=batch, **way, **UNTIL_STOPPED
        )
        for batch in batches
        for way in ways
    ]


def averaging(parallel: RunConfig, preset: str) -> list[RunConfig]:
    """Return serial runs, gradient averaging, and weight averaging at two intervals, with seeds."""
    ways: list[dict[str, Any]] = [
        {"strategy": "serial", "num_ranks": 1},
        {},
        {"strategy": "weight_averaging", "average_every": 10},
        {"strategy": "weight_averaging"},
    ]
    configs = [
        parallel.replace(**way, seed=seed)
        for seed in range(choose(preset, quick=2, full=3))
        for way in ways
    ]
    if preset == "full":
        configs.append(parallel.replace(model="cnn", lr=0.05, global_batch_size=64, num_epochs=5))
    return configs


def on_every_schedule(
    base: Mapping[str, RunConfig], pipeline: Callable[..., RunConfig]
) -> dict[str, RunConfig]:
    """Return pipelines of the cnn and the mlp with every schedule, torch's, and serial runs.

    `pipeline(model, schedule, **changes)` makes the config of one. The interleaved schedule needs
    two stages a rank, for which only the cnn has enough blocks; zero_bubble needs two ranks.
    """
    num_ranks = pipeline("cnn", "gpipe").num_ranks
    names = _schedules_for(num_ranks, base["cnn"].num_blocks)
    configs = {f"cnn, {name}": pipeline("cnn", name) for name in names}
    for name in names:
        if name != "interleaved":
            configs[f"mlp, {name}"] = pipeline("mlp", name, num_steps=40)
    torch_: dict[str, Any] = {"strategy": "torch_pipelining", "num_traced_steps": 0}
    for run in [f"{model}, {name}" for model in base for name in ("gpipe", "1f1b")]:
        configs[f"{run}, torch"] = configs[run].replace(**torch_)
    for model, config in base.items():
        num_steps = configs[f"{model}, 1f1b"].num_steps
        configs[f"{model}, serial"] = config.replace(num_steps=num_steps)
    return configs


def steps_on_ranks(study: StudyConfig, rank_counts: Sequence[int], preset: str) -> list[RunConfig]:
    """Return short runs at each batch size of a study, on each number of ranks."""
    options = {**UNTIL_STOPPED, "lr": 0.001, "dataset": study.dataset, "optimizer": study.optimizer}
    return [
        RunConfig(
            strategy="serial" if p == 1 else "gradient_averaging",
            num_ranks=p,
            num_threads=1,
            global_batch_size=batch,
            num_steps=choose(
                preset, quick=max(10, 2_000 // batch), full=max(20, min(2_000, 30_000 // batch))
            ),
            **options,
        )
        for batch in study.batch_sizes
        for p in rank_counts
    ]


def every_way(
    config: RunConfig, models: Mapping[Architecture, Model], rank_counts: Sequence[int]
) -> dict[str, RunConfig]:
    """Return a serial config trained in every way on each number of ranks, by name.

    Each pipeline is cut where the profile of its model says; one that has fewer blocks than stages
    is left out. The baselines are one thread, and all cores with threads.
    """
    num_cores = max(rank_counts)
    configs = {
        "serial, one thread": config,
        f"serial, {num_cores} threads": config.replace(num_threads=num_cores),
    }
    for p in rank_counts:
        averaging_ = config.replace(strategy="gradient_averaging", num_ranks=p)
        configs[f"gradient averaging, {p} ranks"] = averaging_
        configs[f"gradient averaging by MPI, {p} ranks"] = averaging_.replace(allreduce="mpi")
        for name in _schedules_for(p, config.num_blocks):
            pipeline = config.replace(strategy="pipeline", num_ranks=p, schedule=name)
            balance = best_balance(pipeline, models[architecture(config)])
            configs[f"pipeline, {name}, {p} ranks"] = pipeline.replace(balance=balance)
        configs[f"tensor, {p} ranks"] = config.replace(strategy="tensor", num_ranks=p)
    return configs


def accuracy_of_ways(
    networks: Mapping[str, RunConfig],
    ways: Callable[[RunConfig], Mapping[str, RunConfig]],
    chosen: Sequence[str],
    preset: str,
) -> list[tuple[str, RunConfig]]:
    """Return whole trainings of networks in chosen ways and by weight averaging, with labels.

    The mlp is trained with several seeds in the full preset.
    """
    plan = []
    for name, config in networks.items():
        for seed in range(choose(preset, quick=1, full=3) if name == "mlp" else 1):
            seeded = ways(config)
            labelled = {way: seeded[way] for way in chosen}
            num_ranks = max(run.num_ranks for run in labelled.values())
            label = f"weight averaging, {num_ranks} ranks"
            labelled[label] = config.replace(strategy="weight_averaging", num_ranks=num_ranks)
            plan += [(way, run.replace(seed=seed)) for way, run in labelled.items()]
    return plan


def portions(large: int) -> dict[str, dict[str, int]]:
    """Return the large batch, smaller batches, and the large one in micro-batches, by label."""
    sizes = [size for size in (32, 64, 128, 256) if size < large]
    labelled = {f"batch {size}": {"size": size} for size in (large, *sizes)}
    for size in sizes[:-1]:
        label = f"{large} as {large // size} times {size}"
        labelled[label] = {"size": large, "microbatch_size": size}
    return labelled


def networks_to_show(dataset: str, device: str, preset: str) -> dict[str, RunConfig]:
    """Return serial configs of the mlp, the cnn and a ResNet-18, a narrow one in the quick
    preset."""
    common: dict[str, Any] = {"dataset": dataset, "device": device, "num_threads": 1}
    common |= {"num_warmup_steps": 1, "evaluate_every": 1}
    width = choose(preset, quick=16, full=64)
    small: dict[str, Any] = {"global_batch_size": 32, **common}
    return {
        "mlp": RunConfig(model="mlp", global_batch_size=128, lr=0.01, **common),
        "cnn": RunConfig(model="cnn", lr=0.05, **small),
        "resnet18": RunConfig(model="resnet18", lr=0.02, width=width, **small),
    }


def _schedules_for(num_ranks: int, num_blocks: int) -> list[str]:
    """Return the schedules that so many ranks can run on a model of so many blocks."""
    if num_ranks > num_blocks:
        return []
    names = list(SCHEDULES)
    if 2 * num_ranks > num_blocks:
        names.remove("interleaved")
    if num_ranks == 1:
        names.remove("zero_bubble")
    return names
