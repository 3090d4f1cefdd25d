"""What a rank spends its time on: every second of training is booked to an activity."""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import chain
from time import perf_counter

LOAD = "load"  # select a batch and normalise it
FORWARD = "forward"
BACKWARD = "backward"
WEIGHT_GRADIENTS = "weight gradients"  # the second part of a backward pass that is split
UPDATE = "update"  # the optimizer's step
COMMUNICATE = "communicate"  # a collective exchange
SEND = "send"
RECEIVE = "receive"
WAIT = "wait"  # for other ranks: at a barrier, or for the message of another stage
OTHER = "other"
PASSES = (FORWARD, BACKWARD, WEIGHT_GRADIENTS)
ACTIVITIES = (LOAD, *PASSES, UPDATE, COMMUNICATE, SEND, RECEIVE, WAIT, OTHER)
Event = tuple[str, int, int, float, float]


class Timeline:
    """A clock that books the time since its last lap to the activity that just ended.

    Laps follow each other without gaps, so the activities add up to the time between `start` and
    the last lap. Each lap is also an event (activity, stage, micro-batch, start, end), in seconds
    since the first `start` after a reset; the events of the last `num_traced_steps` steps are kept.
    Stage and micro-batch are -1 where there is none.
    """

    def __init__(self, num_traced_steps: int = 0) -> None:
        self._steps: deque[list[Event]] = deque(maxlen=num_traced_steps)
        self._events: list[Event] = []
        self._origin: float | None = None
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = perf_counter()
        self._is_running = True

    def start(self) -> None:
        """Start the clock; the time since the last lap (of an evaluation, say) is not booked."""
        self._is_running = True
        self._last = perf_counter()
        if self._origin is None:
            self._origin = self._last

    def stop(self) -> None:
        """Ignore laps until the next `start`: those of an evaluation are no training."""
        self._is_running = False

    def begin_step(self) -> None:
        """Start a new list of events."""
        self._events = []
        self._steps.append(self._events)

    def lap(self, activity: str, stage: int = -1, microbatch: int = -1) -> None:
        """Book the time since `start` or the last lap to this activity."""
        if not self._is_running:
            return
        now = perf_counter()
        self.seconds[activity] += now - self._last
        self._events.append((activity, stage, microbatch, self._last, now))
        self._last = now

    def reset(self) -> None:
        """Forget all booked seconds and events."""
        self.seconds.clear()
        self._steps.clear()
        self._origin = None
        self._last = perf_counter()

    @property
    def events(self) -> list[Event]:
        """The events of the last `num_traced_steps` steps."""
        origin = self._origin or 0.0
        events = []
        for activity, stage, microbatch, start, end in chain.from_iterable(self._steps):
            events.append((activity, stage, microbatch, start - origin, end - origin))
        return events

    @property
    def total_seconds(self) -> float:
        """The sum of the booked seconds."""
        return sum(self.seconds.values())
