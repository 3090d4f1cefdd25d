"""Independent tasks spread over engines: whoever is free takes the next one."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from nnpar_lib.launch.calls import POLL_SECONDS, PendingCall
from nnpar_lib.launch.rank_output import RankOutput

Task = TypeVar("Task")


class Workers(Protocol):
    """What a farm asks of the engines."""

    num_ranks: int

    def send_to(self, rank: int, name: str, args: Sequence[Any]) -> Any:
        """Have one rank call a function; return the future of its result."""

    def check_alive(self) -> None:
        """Raise where an engine is gone."""


def run(
    workers: Workers,
    name: str,
    next_task: Callable[[], Task | None],
    arguments: Callable[[Task], Sequence[Any]],
    on_result: Callable[[Task, Any], None],
    meanwhile: Callable[[], None],
) -> None:
    """Call a function on each rank that is free with the next task's arguments, until no task is
    left and none runs.

    `next_task` may return None while tasks run on whose results others depend; it is asked again
    after each result. `meanwhile` is called when all ranks that can be are at work: what takes time
    belongs there, not in `on_result`. Raises a RankError where a task raises, and EnginesLost where
    an engine dies.
    """
    busy: dict[int, tuple[Task, PendingCall, Any]] = {}
    while True:
        for rank in set(range(workers.num_ranks)) - set(busy):
            if (task := next_task()) is not None:
                part = workers.send_to(rank, name, arguments(task))
                output = RankOutput(on_progress=lambda *_: None, on_record=lambda _: None)
                busy[rank] = task, PendingCall([part], output), part
        meanwhile()
        if not busy:
            return
        parts = [part for _, _, part in busy.values()]
        concurrent.futures.wait(parts, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
        workers.check_alive()
        for rank in [rank for rank, (_, call, _) in busy.items() if call.is_over]:
            task, call, _ = busy.pop(rank)
            call.wait(workers.check_alive)
            on_result(task, call.results[0])
