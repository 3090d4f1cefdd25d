"""The tables of the report: which columns each one shows, under which names, with how many
digits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """The shown columns by the names that a reader knows, and the digits of their numbers; no
    columns: all, as they are."""

    columns: dict[str, str]
    digits: int


CLAIMS = Table(
    {
        "claim": "ratio",
        "measured": "median",
        "low": "quartile 1",
        "high": "quartile 3",
        "control_low": "noise from",
        "control_high": "to",
        "num_repeats": "repeats",
        "verdict": "verdict",
        "goal": "goal",
        "outcome": "outcome",
    },
    digits=2,
)
EVIDENCE = Table(
    {
        "claim": "number",
        "value": "median [95 % interval]",
        "control": "noise",
        "num_repeats": "repeats",
        "verdict": "verdict",
        "goal": "goal",
        "records": "records",
        "commit": "commit",
        "command": "made by",
    },
    digits=2,
)
QUIETNESS = Table(
    {
        "moment": "measured",
        "time": "UTC",
        "model": "model",
        "again_low": "same run again, lowest",
        "again_high": "highest",
        "at_once": "each of two at once",
        "busy_cores": "cores that others kept busy",
        "waited_seconds": "seconds waited",
        "load_average": "load average",
    },
    digits=2,
)
DATA_PARALLELISM = {
    "ladder-table": Table(
        {
            "label": "rung",
            "mends": "what it mends",
            "kind": "kind",
            "seconds": "seconds an epoch",
            "speedup": "speedup over the rung that it changes",
            "change": "change",
            "over_serial": "over the best serial run",
        },
        digits=2,
    ),
    "averaging-table": Table(
        {
            "model": "model",
            "way": "way to train",
            "num_seeds": "seeds",
            "median": "median",
            "min": "lowest",
            "max": "highest",
        },
        digits=2,
    ),
    "scaling-table": Table(
        {
            "model": "model",
            "way": "way to train",
            "num_ranks": "ranks",
            "samples_per_second": "samples/s",
            "efficiency": "efficiency",
            "same_batch_efficiency": "same batch",
            "num_repeats": "repeats",
        },
        digits=3,
    ),
}
MODEL_PARALLELISM = {
    "schedules-table": Table(
        {
            "label": "model, schedule",
            "measured": "examples/s",
            "allowed": "schedule allows",
            "share": "share, %",
            "bubble": "bubble, %",
            "bubble_simulated": "simulated, %",
            "bubble_formula": "formula, %",
            "num_repeats": "repeats",
        },
        digits=0,
    ),
    "best-table": Table(
        {
            "network": "network, weights",
            "global_batch_size": "batch",
            "label": "fastest way",
            "speedup": "speedup",
            "low": "quartile 1",
            "high": "quartile 3",
            "efficiency": "efficiency",
            "kb": "kB a step",
            "mb": "MB a rank",
            "num_repeats": "repeats",
        },
        digits=2,
    ),
    "all-table": Table(
        {
            "network": "network, weights",
            "global_batch_size": "batch",
            "label": "way",
            "samples_per_second": "examples/s",
            "speedup": "speedup",
            "efficiency": "efficiency",
            "kb": "kB a step",
            "mb": "MB a rank",
            "cores": "a core a rank",
        },
        digits=2,
    ),
    "in-parts-table": Table(
        {
            "strategy": "way",
            "num_ranks": "ranks",
            "seconds": "s a step",
            "mb": "MB a rank",
            "exchanged": "MB a step",
        },
        digits=2,
    ),
    "goals-table": Table(
        {
            "model": "model",
            "label": "way",
            "goal": "goal, %",
            "seconds_to_goal": "seconds to it",
            "final": "accuracy at the end, %",
            "lost": "lost, points",
        },
        digits=2,
    ),
    "swaps-table": Table(
        {
            "network": "network, weights",
            "strategy": "against gradient averaging",
            "smallest_batch": "smallest batch",
            "faster_there": "faster there",
            "measured": "swap, measured",
            "predicted": "swap, predicted",
        },
        digits=0,
    ),
    "larger-table": Table(
        {
            "machine": "machine",
            "num_ranks": "ranks",
            "strategy": "strategy",
            "ms": "ms a step",
            "speedup": "speedup",
            "efficiency": "efficiency",
            "bubble": "bubble, %",
            "mb": "MB a rank",
        },
        digits=2,
    ),
    "assumed-table": Table({}, digits=1),
}
BATCH_SIZES = {
    "regimes-table": Table(
        {
            "batch_size": "batch",
            "median_steps": "steps",
            "low": "95 % from",
            "high": "to",
            "best_of_n": "best of N",
            "slope": "slope",
            "slope_low": "from",
            "slope_high": "to ",
            "regime": "regime",
        },
        digits=2,
    ),
    "regimes-seconds-table": Table(
        {
            "num_ranks": "ranks",
            "batch_size": "batch",
            "seconds": "seconds",
            "low": "95 % from",
            "high": "to",
            "seconds_predicted": "predicted",
            "ratio": "ratio",
        },
        digits=2,
    ),
    "doubling-table": Table({}, digits=2),
    "amdahl-table": Table(
        {
            "num_ranks": "ranks",
            "measured": "fewer steps",
            "low": "95 % from",
            "high": "to",
            "hyperbola": "Amdahl",
            "preferred": "fit",
        },
        digits=2,
    ),
    "equal-table": Table(
        {
            "batch_size": "batch",
            "num_ranks": "ranks",
            "serial_steps": "steps on one rank",
            "steps": "steps",
            "num_pairs": "runs to a goal",
            "num_equal": "equal",
        },
        digits=0,
    ),
    "studies-table": Table(
        {
            "study": "model and optimizer",
            "protocol": "batch sizes, trials, seeds",
            "goal": "goal, %",
            "curve": "curve, q",
            "ends_perfect": "perfect to",
            "ends_perfect_low": "from",
            "ends_perfect_high": "to",
            "b_crit": "B_crit",
            "b_crit_low": "from ",
            "b_crit_high": "to ",
            "status": "status",
        },
        digits=0,
    ),
    "local-table": Table(
        {
            "average_every": "interval",
            "lr": "learning rate",
            "steps": "steps",
            "low": "95 % from",
            "high": "to",
            "exchanges": "exchanges",
            "samples_ratio": "samples, relative",
            "samples_low": "from",
            "samples_high": "to ",
        },
        digits=2,
    ),
}
PRECISION = {
    "roofline-table": Table(
        {
            "way": "computed in",
            "block": "block",
            "num_parameters": "parameters",
            "gflop": "GFLOP a step",
            "mb": "MB a step",
            "ms": "ms a step",
            "limit": "limit",
            "reached": "of what it allows",
        },
        digits=2,
    ),
    "tuned-table": Table(
        {
            "model": "model",
            "global_batch_size": "batch",
            "precision": "precision",
            "memory_format": "layout",
            "convolution": "convolutions",
            "microbatch_size": "examples at a time (0: all)",
            "speedup": "times plain",
            "num_repeats": "repeats",
        },
        digits=2,
    ),
    "precision-accuracy-table": Table(
        {
            "model": "model",
            "cpu": "processor",
            "precision": "precision",
            "num_ranks": "ranks",
            "num_epochs": "epochs",
            "global_batch_size": "batch",
            "num_seeds": "seeds",
            "accuracy": "accuracy (%)",
            "low": "lowest",
            "high": "highest",
            "lost": "points lost",
        },
        digits=2,
    ),
}
MACHINES = {
    "machines-verdicts-table": Table(
        {
            "machine": "machine",
            "experiment": "experiment",
            "label": "compared",
            "base": "with",
            "median": "times its rate",
            "ci_low": "95 % from",
            "ci_high": "to",
            "num_repeats": "repeats",
            "verdict": "verdict",
        },
        digits=2,
    ),
    "machines-blind-table": Table(
        {
            "machine": "machine",
            "strategy": "strategy",
            "num_ranks": "ranks",
            "without_waiting": "median error without waiting",
            "median_error": "with waiting",
            "largest_error": "largest",
            "count": "configurations",
        },
        digits=2,
    ),
    "machines-waiting-table": Table(
        {
            "machine": "machine",
            "model": "model",
            "allreduce": "all-reduce",
            "num_ranks": "ranks",
            "measured_ms": "ms measured",
            "predicted_ms": "ms predicted",
            "error": "error",
            "waited_ms": "ms waited",
            "waiting_ms": "ms of waiting predicted",
            "error_with_waiting": "error with waiting",
        },
        digits=2,
    ),
}
ARTICLE = {
    "networks-table": Table(
        {
            "network": "network",
            "layers": "layers",
            "parameters": "parameters",
            "mflop": "MFLOP",
            "optimizer": "optimizer",
            "lr": "rate",
        },
        digits=2,
    ),
    "terms-table": Table({"term": "term", "definition": "definition"}, digits=2),
    "peers-table": Table(
        {
            "claim": "ratio of samples a second",
            "measured": "median",
            "ci_low": "95 % from",
            "ci_high": "to",
            "control_low": "noise from",
            "control_high": "to ",
            "num_repeats": "repeats",
            "verdict": "verdict",
        },
        digits=2,
    ),
}
TABLES = {
    **ARTICLE,
    "claims-table": EVIDENCE,
    "cpp-claims-table": CLAIMS,
    "quietness-table": QUIETNESS,
    **DATA_PARALLELISM,
    **MODEL_PARALLELISM,
    **BATCH_SIZES,
    **PRECISION,
    **MACHINES,
}
