"""Predict an epoch of MNIST on machines that were not measured.

    python cluster/predict.py [--price-per-hour 'MACHINE=PRICE' ...]

Nothing is run. The cost model works on what notebook 05 recorded for the report, the prices of
messages and the profiles of both networks, and on the assumptions that are printed in Markdown
below the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from nnpar_lib.analysis.cost import calibration, cost_model, predictions
from nnpar_lib.config import RunConfig
from nnpar_lib.records import store
from nnpar_lib.records.kinds import Record, RunRecord

RECORDS = Path(__file__).resolve().parents[1] / "report" / "results" / "mnist-full"
NUM_MEASURED, LOCAL_BATCH_SIZE, GPU_BATCH_SIZE, NUM_EPOCHS = 2, 32, 256, 100
GPU = "g4dn.xlarge (T4)"
NUM_RANKS = {
    **{f"{num_cores} cores": num_cores for num_cores in (NUM_MEASURED, 8, 16, 32, 64)},
    GPU: 1,
}  # by machine
NETWORKS = ("mlp", "cnn")
HEADER = (
    "machine",
    "ranks x examples a step",
    "mlp, s an epoch",
    "cnn, s an epoch",
    f"{NUM_EPOCHS} epochs of the cnn, hours",
    "cost of these",
)
ASSUMED = """\
**All rows but the measured one are predictions.** For many cores the model assumes that each core
is as fast as one of the two measured cores ({cpu}) while the other one computed, that
the memory bandwidth suffices for all cores, and that an exchange through shared memory is a ring
whose messages have a latency of {alpha:.1f} microseconds and a bandwidth of {bandwidth:.1f} GB/s,
as fitted on two ranks. A core is a physical core, two vCPUs. For the T4 ({source}) it
assumes that half of that rate is reached, that a pass of a block takes at least {fixed:.0f}
microseconds, and that the data are on the GPU. All rows are gradient averaging in float32. Set-up,
evaluation and the idle hours of an instance are not included. The median error of the model is
{error:.0%}, over the {count} configurations that were measured on one and two cores."""


def main() -> int:
    """Print the table and what it assumes; a wrong option is one line on standard error and status
    2."""
    try:
        prices = dict(map(_price, _parser().parse_args().price_per_hour))
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    costs, grid = store.load(RECORDS / "05_costs.jsonl"), store.load(RECORDS / "05_grid.jsonl")
    rows = [HEADER, ("---",) * len(HEADER), _measured_row(grid)]
    rows += [_row(machine, costs, prices) for machine in NUM_RANKS]
    print(*(f"| {' | '.join(row)} |" for row in rows), "", _assumptions(costs, grid), sep="\n")
    return 0


def _price(text: str) -> tuple[str, float]:
    machine, _, price = text.partition("=")
    try:
        value = float(price)
    except ValueError:
        raise ValueError(f"{text!r} is no MACHINE=PRICE; write it like '64 cores=3.2'") from None
    if machine not in NUM_RANKS:
        raise ValueError(
            f"there is no machine {machine!r} in the table; it has {', '.join(NUM_RANKS)}"
        )
    return machine, value


def _row(machine: str, costs: Sequence[Record], prices: dict[str, float]) -> tuple[str, ...]:
    configs = [_config(network, machine) for network in NETWORKS]
    epochs = [_predicted(config, costs) for config in configs]
    hours = NUM_EPOCHS * epochs[-1] / 3600
    cost = f"{hours * prices[machine]:.2f}" if machine in prices else "price: look it up"
    return machine, _work(configs[0]), *map(_round, epochs), _round(hours), cost


def _measured_row(grid: Sequence[Record]) -> tuple[str, ...]:
    machine = f"{NUM_MEASURED} cores"
    configs = [_config(network, machine) for network in NETWORKS]
    return (
        f"{machine}, measured",
        _work(configs[0]),
        *(_round(_measured(config, grid)) for config in configs),
        "",
        "",
    )


def _config(network: str, machine: str) -> RunConfig:
    if machine == GPU:
        return RunConfig(
            model=network, dataset="mnist", global_batch_size=GPU_BATCH_SIZE, device="cuda"
        )
    num_ranks = NUM_RANKS[machine]
    return RunConfig(
        strategy="gradient_averaging",
        model=network,
        dataset="mnist",
        num_ranks=num_ranks,
        num_threads=1,
        global_batch_size=LOCAL_BATCH_SIZE * num_ranks,
    )


def _predicted(config: RunConfig, costs: Sequence[Record]) -> float:
    """Return the seconds of an epoch."""
    model = calibration.models(costs, NUM_MEASURED)[cost_model.architecture(config)]
    if config.device == "cuda":
        model = predictions.moved(config, model, predictions.T4)
    return (
        cost_model.step_seconds(config, model, calibration.machine(costs))
        * config.num_steps_per_epoch
    )


def _measured(config: RunConfig, grid: Sequence[Record]) -> float:
    """Return the seconds of an epoch at the median pace of the recorded runs of this kind."""
    same = ("strategy", "model", "hidden", "num_ranks", "global_batch_size", "allreduce")
    wanted = config.to_dict()
    runs = [
        run
        for run in grid
        if isinstance(run, RunRecord) and all(run.config[name] == wanted[name] for name in same)
    ]
    return (
        statistics.median(run.train_seconds / run.num_steps for run in runs)
        * config.num_steps_per_epoch
    )


def _assumptions(costs: Sequence[Record], grid: Sequence[Record]) -> str:
    machine, models = calibration.machine(costs), calibration.models(costs, NUM_MEASURED)
    compared, shared = predictions.compare(grid, models, machine), machine.allreduces["shared"]
    text = ASSUMED.format(
        cpu=costs[0].provenance["cpu"],
        alpha=shared.alpha * 1e6,
        bandwidth=shared.bandwidth / 1e9,
        source=predictions.T4.source.split(";")[0],
        fixed=predictions.T4.fixed_seconds * 1e6,
        error=predictions.median_error(compared),
        count=int((~compared["oversubscribed"]).sum()),
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _work(config: RunConfig) -> str:
    return f"{config.num_ranks} x {config.global_batch_size // config.num_ranks}"


def _round(number: float) -> str:
    return f"{number:.2g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--price-per-hour",
        action="append",
        default=[],
        metavar="'MACHINE=PRICE'",
        help=(
            "what a machine of the table costs an hour, such as '64 cores=3.2'; may be given again"
        ),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
