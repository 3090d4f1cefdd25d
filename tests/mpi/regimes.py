"""Run by mpiexec: steps to goals and gradient norms on these ranks; rank 0 prints them as one JSON
object."""

from __future__ import annotations

import json

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.tasks.goal_run import run_trial_on_ranks
from nnpar_lib.trainers.tasks.gradient_noise import gradient_norms
from nnpar_lib.trainers.tasks.runs import abort_all_on_error

COMMON = {
    "dataset": "digits",
    "global_batch_size": 120,
    "lr": 0.1,
    "num_threads": 1,
    "binding": "none",
    "dtype": "float64",
    "hidden": (32,),
    "optimizer": "sgd",
}
GOALS = (0.5, 0.4, 0.3)
LIMITS = (300, 300, 300)
AVERAGE_EVERY = 10
NORM_STEPS = (0, 3, 7, 91, 92)  # 91 is the last, short batch of the first epoch


def parallel(num_ranks: int) -> dict[str, object]:
    """Return the parameters of the parallel runs."""
    strategy = "gradient_averaging" if num_ranks > 1 else "serial"
    return RunConfig(strategy=strategy, num_ranks=num_ranks, **COMMON).to_dict()  # type: ignore[arg-type]


def main() -> None:
    ranks = world()
    with abort_all_on_error():
        serial = run_trial_on_ranks(parallel(1), GOALS, LIMITS)
        trial = run_trial_on_ranks(parallel(ranks.size), GOALS, LIMITS)
        pair = (
            run_trial_on_ranks(parallel(2), GOALS, LIMITS) if ranks.size > 2 else trial
        )  # others sleep meanwhile
        local = run_trial_on_ranks(
            {
                **parallel(ranks.size),
                "strategy": "weight_averaging",
                "average_every": AVERAGE_EVERY,
            },
            GOALS,
            LIMITS,
        )
        norms = gradient_norms(parallel(ranks.size), NORM_STEPS) if ranks.size > 1 else []
    if ranks.rank == 0:
        print(
            "RESULT",
            json.dumps(
                {
                    "serial": serial["steps"],
                    "parallel": trial["steps"],
                    "norms": norms,
                    "local": local["steps"],
                    "pair": pair["steps"],
                }
            ),
        )


if __name__ == "__main__":
    main()
