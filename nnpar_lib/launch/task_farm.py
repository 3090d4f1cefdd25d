"""Independent tasks on engines: a rank that is free takes the next task."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from nnpar_lib.launch.calls import POLL_SECONDS, PendingCall
from nnpar_lib.launch.rank_output import RankOutput

Task = TypeVar("Task")


class Workers(Protocol):
    """What a task farm needs of the engines."""

    num_ranks: int

    def send_to(self, rank: int, name: str, args: Sequence[Any]) -> Any:
        """Have one rank call a function; return the future of its result."""

    def check_alive(self) -> None:
        """Raise EnginesLost where a process of the engines is gone."""


def run(
    workers: Workers,
    name: str,
    next_task: Callable[[], Task | None],
    arguments: Callable[[Task], Sequence[Any]],
    on_result: Callable[[Task, Any], None],
    meanwhile: Callable[[], None],
) -> None:
    """Call a function with the arguments of one task after another, on whichever rank is free.

    `next_task` may return None while tasks run whose results the next ones depend on; it is asked
    again after each result. `meanwhile` is called when no rank waits for a task: slow work belongs
    there, not in `on_result`. Raises a RankError that names the rank where a task raises, and
    EnginesLost where a process of the engines dies or stops.
    """
    busy: dict[int, tuple[Task, PendingCall, Any]] = {}
    while True:
        for rank in set(range(workers.num_ranks)) - set(busy):
            if (task := next_task()) is not None:
                part = workers.send_to(rank, name, arguments(task))
                output = RankOutput(on_progress=lambda *_: None, on_record=lambda _: None)
                busy[rank] = task, PendingCall([part], output, ranks=[rank]), part
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
