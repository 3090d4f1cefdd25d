"""Compares your own parallel training step with serial training, on 1 to 4 ranks.

A step is a function over mpi4py or torch.distributed that trains on one rank's part of a batch::

    import torch

    from nnpar_lib import verify


    def step(model, part, communicator):
        loss = torch.nn.functional.cross_entropy(
            model(part.inputs), part.targets, reduction="sum"
        )
        loss.backward()
        for parameter in model.parameters():
            total = torch.empty_like(parameter.grad)
            communicator.Allreduce(parameter.grad.numpy(), total.numpy())
            parameter.grad = total / part.num_global_examples


    print(verify.check(step))

The report says which steps differ from serial ones, by how much, in which parameter and on which
rank, and, where the gradient tells it, why.
"""

from __future__ import annotations

import json
import linecache
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnpar_lib.config.environment import launched_rank, launched_size
from nnpar_lib.launch import tasks

if TYPE_CHECKING:
    from nnpar_lib.launch.engines import Engines

BOUNDS = {"float64": 1e-12, "float32": 1e-5}
COMMUNICATORS = ("mpi4py", "torch")
CHECKS = ("even parts", "uneven parts", "short last batch", "empty parts", "resume")
NUM_RANKS = 4
USER_ERROR = "UserCodeError"
TURN_SECONDS = 1.0


@dataclass(frozen=True)
class Difference:
    """How far a parameter (its gradient, a buffer) of one rank is from that of serial training.

    `step` counts from 0 and is the first step of the check that differs; `relative` is the largest
    `absolute` difference over the largest absolute value. `explanation` is "" where the gradient
    does not tell what is wrong.
    """

    check: str
    num_ranks: int
    step: int
    batch_size: int
    rank: int
    parameter: str
    absolute: float
    relative: float
    explanation: str = ""


@dataclass(frozen=True)
class Report:
    """What a comparison says: the checks with their numbers of ranks, and all differences.

    `error` is one line where the step raised or did not end; then nothing was compared.
    """

    tried: tuple[tuple[str, int], ...]
    differences: tuple[Difference, ...]
    bound: float
    error: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether every step ended where a serial one does, within the bound."""
        return not self.differences and not self.error

    @property
    def failed(self) -> tuple[tuple[str, int], ...]:
        """The checks, each with its number of ranks, in which something differs."""
        return tuple(dict.fromkeys((row.check, row.num_ranks) for row in self.differences))

    def worst(self, check: str, num_ranks: int) -> Difference:
        """Return the largest relative difference of a check that failed."""
        rows = [row for row in self.differences if (row.check, row.num_ranks) == (check, num_ranks)]
        return max(rows, key=lambda row: (bool(row.explanation), row.relative))

    def explanations(self) -> list[str]:
        """Return what the differences say of their causes, each once, the first first."""
        texts = [row.explanation for row in self.differences if row.explanation]
        return list(dict.fromkeys(texts))

    def __str__(self) -> str:
        """Return a line where all is equal, else a few lines for each check that differs."""
        if self.error:
            return f"not compared: {self.error}"
        if self.is_equal:
            return (
                f"equal to serial training: {len(self.tried)} checks, every difference within"
                f" {self.bound:g}"
            )
        lines = [
            f"not equal to serial training: {len(self.failed)} of {len(self.tried)} checks differ"
            f" by more than {self.bound:g}"
        ]
        for check, num_ranks in self.failed:
            lines += _described(self.worst(check, num_ranks))
        return "\n".join(lines)


def check(
    step: Callable[..., Any],
    *,
    model: Callable[[], Any] | None = None,
    examples: tuple[Any, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Callable[[Any], Any] | None = None,
    save: Callable[[Any, Any], Any] | None = None,
    load: Callable[[Any, Any, Any], None] | None = None,
    over: str = "mpi4py",
    dtype: str = "float64",
    checks: Sequence[str] = (),
    num_ranks: int | None = None,
    ranks: Engines | None = None,
    seconds: float = 20.0,
) -> Report:
    """Take the same few steps serially and by `step` on 1, 2, ... ranks; return what differs.

    `step(model, part, communicator)` leaves in the parameters' `grad` the gradient of the mean loss
    of the whole batch. It gets a model whose gradients are None, this rank's part of the batch,
    with tensors `inputs` [n, ...] and `targets` [n] (n may be 0) and the whole batch's
    `num_global_examples`, and a communicator of the ranks: one of mpi4py, or with `over="torch"` a
    process group of torch.distributed (gloo). The update is done here, by SGD with momentum.

    With `optimizer`, a function from a model to a torch optimizer, the step is called with it as
    fourth argument and updates the weights itself; nothing is set to zero for it. `save(model,
    optimizer)` and `load(saved, model, optimizer)` are then tried too: a run goes on in new objects
    (default: the state_dicts of both).

    `model()` returns the network (default: one of two layers on 6 features), `examples` are inputs
    and targets, and `loss(outputs, targets)` is the SUM over examples (default: cross-entropy).
    Batch sizes give parts that are even, uneven and empty, and a short last batch; `checks` names
    some of `CHECKS`. The bound is 1e-12 of the largest value in float64, 1e-5 in float32; the
    ranks' copies have to be the same to the last bit.

    Under mpiexec the ranks that were launched are used, and the report is returned on all of them;
    a step that raises ends them. Elsewhere `ranks`, running engines, or engines that are started
    for this call (4), are used; a step that raises, or takes longer than `seconds`, is told in the
    report, and may have cost the engines. Raises a ValueError for a bad argument.
    """
    _check_arguments(over, dtype, checks)
    subject = {
        "step": step,
        "model": model,
        "examples": examples,
        "loss": loss,
        "optimizer": optimizer,
        "save": save,
        "load": load,
        "over": over,
        "dtype": dtype,
        "bound": BOUNDS[dtype],
        "seconds": seconds,
        "names": tuple(checks),
    }
    return _check_somewhere(subject, num_ranks, ranks)


def call_on(ranks: Engines, task: str, arguments: dict[str, Any]) -> tuple[list[Any], str]:
    """Call a task that calls a user's functions on all ranks; return its results, or one line.

    The line tells what the user's function raised, or where it did not end.
    """
    import cloudpickle

    from nnpar_lib.launch.calls import EnginesLost, RankError

    try:
        return ranks.call(
            tasks.TASKS[task], cloudpickle.dumps(arguments), progress=lambda *_: None
        ), ""
    except RankError as error:
        if error.ename != USER_ERROR:
            raise
        return [], told(error.evalue)
    except EnginesLost as error:
        return [], str(error).split("; all engines")[0].replace("stalled: ", "")


def told(text: str) -> str:
    """Return one line about what a user's function raised, with the line of its source."""
    error = json.loads(text)
    source = linecache.getline(error["file"], error["line"]).strip()
    return (
        f"rank {error['rank']} raised {error['error']}, in line {error['line']} of"
        f" {error['function']}" + (f": {source}" if source else "")
    )


def _check_arguments(over: str, dtype: str, checks: Sequence[str]) -> None:
    for name, value, choices in (
        ("over", over, COMMUNICATORS),
        ("dtype", dtype, tuple(BOUNDS)),
        *(("a check", name, CHECKS) for name in checks),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose from {', '.join(choices)}")


def _check_somewhere(
    subject: dict[str, Any], num_ranks: int | None, ranks: Engines | None
) -> Report:
    """Check on engines that are given, on ranks that were launched, or on engines of its own."""
    if ranks is None and launched_rank() is not None:
        size = launched_size() or 1
        return _check_here({**subject, "num_ranks": min(num_ranks or size, size)})
    if ranks is not None:
        available = ranks.num_ranks
        return _check_on(ranks, {**subject, "num_ranks": min(num_ranks or available, available)})
    from nnpar_lib.launch.engines import engines

    wanted = num_ranks or NUM_RANKS
    with engines(wanted) as started:
        return _check_on(started, {**subject, "num_ranks": wanted})


def _check_on(ranks: Engines, arguments: dict[str, Any]) -> Report:
    results, error = call_on(ranks, "verify_packed_step", arguments)
    if error:
        return Report((), (), arguments["bound"], error)
    return _report(results[0], arguments["bound"])


def _check_here(arguments: dict[str, Any]) -> Report:
    """Compare on the ranks that were launched; one that fails ends all, for the rest would wait."""
    verify_step = tasks.load("verify_step")
    try:
        return _report(verify_step(**arguments), arguments["bound"])
    except Exception as error:
        if type(error).__name__ != USER_ERROR:
            raise
        if launched_rank():
            time.sleep(TURN_SECONDS)  # where all ranks say the same, rank 0 says it first
        print(f"not compared: {told(str(error))}", file=sys.stderr, flush=True)
        tasks.load("world")().abort(1)
        raise


def _report(result: dict[str, Any], bound: float) -> Report:
    rows = tuple(Difference(**row) for row in result["rows"])
    tried = tuple((name, size) for name, size in result["tried"])
    return Report(tried, rows, bound, told(result["error"]) if result["error"] else "")


def _counted(num_examples: int) -> str:
    return f"{num_examples} example" + "s" * (num_examples != 1)


def _described(row: Difference) -> list[str]:
    ranks = "1 rank" if row.num_ranks == 1 else f"{row.num_ranks} ranks"
    lines = [
        f"  {row.check}, {ranks}: in batch {row.step + 1} ({_counted(row.batch_size)})"
        f" {row.parameter} of rank {row.rank} differs by {row.absolute:.1e}"
        f" ({row.relative:.1e} of its largest value)"
    ]
    return lines + ([f"    {row.explanation}"] if row.explanation else [])
