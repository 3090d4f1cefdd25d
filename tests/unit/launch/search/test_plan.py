"""The order of a search's runs: on simulated trials, whose steps are a function of their job."""

import math
import random

import pytest

from nnpar_lib.config.study import StudyConfig, powers_of_two
from nnpar_lib.launch.search import plan as search_plan
from nnpar_lib.launch.search.plan import ESTIMATE_STOP_FACTOR, Plan

STUDY = StudyConfig(
    goal_errors=(0.1, 0.05), num_trials=16, num_seeds=4, optimizer="momentum", batch_sizes=(64,)
)


def simulated(job, best_lr, floor=100):
    """Return what a run would: steps that grow with the distance to the best learning rate, and
    with the seed."""
    momentum = job.parameters["one_minus_momentum"]
    distance = abs(math.log(job.parameters["lr"] / best_lr)) + 0.02 * abs(math.log(momentum))
    noise = 1 + 0.01 * random.Random(f"{job.trial} {job.seed}").random()
    needed = [round(floor * hardness * (1 + distance) * noise) for hardness in (1, 2)][
        : len(job.step_limits)
    ]
    steps = []
    for need, limit in zip(needed, job.step_limits, strict=True):
        if need > limit:
            break
        steps.append(need)
    steps += [None] * (len(job.step_limits) - len(steps))
    num_steps = min(max(needed), *job.step_limits)
    return {
        "steps": steps,
        "diverged": False,
        "num_steps": num_steps,
        "train_seconds": 1.0,
        "check_seconds": 0.0,
    }


def carry_out(plan, *, num_engines=1, seed=0, best_lr=0.1, done=None, stop_after=None):
    """Run a plan on simulated engines that finish in any order; return what is done, by the name of
    the job."""
    chance = random.Random(seed)
    done = dict(done or {})
    running = {}
    while stop_after is None or len(done) < stop_after:
        ready = [job for job in plan.next_jobs(done) if job.name not in running]
        for job in ready[: num_engines - len(running)]:
            running[job.name] = job
        if not running:
            break
        name = chance.choice(sorted(running))
        done[name] = simulated(running.pop(name), best_lr)
    return done


def test_any_number_of_engines_in_any_order_does_the_same_runs():
    plan = Plan(STUDY, 64)
    alone = carry_out(plan)
    for seed in range(10):
        assert carry_out(plan, num_engines=1 + seed % 5, seed=seed) == alone


def test_a_search_that_was_stopped_anywhere_goes_on_to_the_same_end():
    plan = Plan(STUDY, 64)
    alone = carry_out(plan)
    for num_before in range(0, len(alone), 3):
        before = carry_out(plan, num_engines=2, seed=1, stop_after=num_before)
        assert carry_out(plan, num_engines=2, seed=2, done=before) == alone


def test_every_stage_has_its_runs():
    done = carry_out(Plan(STUDY, 64))
    stages = [name.split("/")[0] for name in done]
    assert stages.count("search") == STUDY.num_trials
    assert (
        stages.count("finalist") % STUDY.num_finalist_seeds == 0 and stages.count("finalist") >= 9
    )
    assert stages.count("estimate") in (4, 8)  # one winner for both goals, or one for each


def test_the_winner_has_the_least_median_on_other_seeds_and_not_the_luckiest_trial():
    plan = Plan(STUDY, 64)
    done = carry_out(plan)
    lucky, *rest = plan.finalists(done, 1)
    for seed in range(1000, 1003):  # the luckiest trial turns out to be bad
        done[f"finalist/{lucky.name}/{seed}"] = {
            **done[f"finalist/{lucky.name}/{seed}"],
            "steps": [5000, 9000],
        }
    assert plan.winner(done, 1) in rest


def test_a_trial_stops_at_three_times_the_best_that_it_may_know_of():
    plan = Plan(STUDY, 64)
    done = carry_out(plan, stop_after=4)
    best = min(outcome["steps"][1] or math.inf for outcome in done.values())
    limits = [job.step_limits[1] for job in plan.next_jobs(done)]
    assert limits[0] == 3 * best and all(limit >= 3 * best for limit in limits)
    assert plan.next_jobs({})[0].step_limits == (STUDY.step_cap(64),) * 2


def test_a_best_point_at_the_edge_widens_the_range_and_runs_again():
    plan = Plan(STUDY, 64)
    low, high = STUDY.search_ranges(64)["lr"]
    done = carry_out(plan, best_lr=high * 3)
    last = plan.trials(done)
    assert last[0].name.startswith("search/1/")
    assert last[0].distributions["lr"] == pytest.approx((low, high * search_plan.WIDEN_FACTOR))
    assert len(last) == STUDY.num_trials and not plan.is_at_edge(done)


def test_ranges_are_widened_a_few_times_only_and_then_said_to_be_too_narrow():
    plan = Plan(STUDY, 64)
    done = carry_out(plan, best_lr=1e4)
    assert {name.split("/")[1] for name in done if name.startswith("search")} == {"0", "1", "2"}
    assert plan.is_at_edge(done)


def test_no_momentum_at_all_is_no_edge():
    ranges = {"lr": (0.1, 1.0), "one_minus_momentum": (0.02, 1.0)}
    assert search_plan.outer_ends({"lr": 0.3, "one_minus_momentum": 0.99}, ranges) == {}
    assert search_plan.outer_ends({"lr": 0.99, "one_minus_momentum": 0.021}, ranges) == {
        "lr": 1,
        "one_minus_momentum": -1,
    }


def test_a_goal_that_no_trial_reaches_has_no_winner_and_no_further_runs():
    hard = StudyConfig(
        goal_errors=(0.1, 0.05),
        num_trials=4,
        num_seeds=2,
        max_steps=40,
        batch_sizes=(64,),
        optimizer="momentum",
    )
    plan = Plan(hard, 64)
    done = carry_out(plan, best_lr=0.05)
    assert plan.winner(done, 0) is not None and plan.winner(done, 1) is None
    assert all(
        len(outcome["steps"]) == 1 for name, outcome in done.items() if name.startswith("estimate")
    )


def test_the_points_are_the_same_at_each_batch_size_and_begin_at_the_centre():
    points = search_plan.quasi_random_points(8, 2)
    assert points[0] == [0.5, 0.5] and len({tuple(point) for point in points}) == 8
    for size in (4, 4096):
        ranges = STUDY.search_ranges(size)
        first = Plan(STUDY, size).next_jobs({})[0]
        assert first.parameters["lr"] == pytest.approx(math.sqrt(ranges["lr"][0] * ranges["lr"][1]))


def test_a_run_of_the_estimate_is_given_up_late():
    plan = Plan(STUDY, 64)
    done = carry_out(plan, stop_after=STUDY.num_trials)
    best = min(outcome["steps"][1] or math.inf for outcome in done.values())
    assert max(job.step_limits[-1] for job in plan.next_jobs(done)) <= ESTIMATE_STOP_FACTOR * best


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"goal_errors": (0.05, 0.1)}, "do not fall"),
        ({"goal_errors": ()}, "between 0 and 1"),
        ({"goal_errors": (2.0,)}, "2.0"),
        ({"batch_sizes": ()}, "empty"),
        ({"batch_sizes": (8, 4)}, "do not rise"),
        ({"batch_sizes": (16384,)}, "11000 examples of digits"),
        ({"num_trials": 0}, "num_trials=0"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"dataset": "minst"}, "did you mean 'mnist'"),
    ],
)
def test_a_wrong_study_is_one_line_that_names_the_remedy(changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        StudyConfig(**changes)
    assert "\n" not in str(caught.value)


def test_powers_of_two():
    assert powers_of_two(4, 32) == (4, 8, 16, 32) and powers_of_two(3, 25) == (3, 6, 12, 24)
    with pytest.raises(ValueError, match="4:8192"):
        powers_of_two(8, 4)
