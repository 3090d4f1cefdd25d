"""What the ranks of a run agree on now and then: whether it has diverged, and whether a checkpoint
is due."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from nnpar_lib.trainers.communication.communicator import Communicator

SECONDS_BETWEEN = 0.1
MAX_STEPS_BETWEEN = 1000


class Pulse:
    """Beats about ten times a second: seldom enough to cost nothing, often enough to end a run in
    vain at once.

    The losses are looked at in the beat and not in their step, so that no step waits for a device.
    """

    def __init__(self, communicator: Communicator, checkpoint_seconds: float | None) -> None:
        self._communicator, self._checkpoint_seconds = communicator, checkpoint_seconds
        self._losses: list[Tensor] = []
        self._steps_left = 1
        self._last_beat = self._last_checkpoint = time.monotonic()

    def note(self, loss: Tensor) -> bool:
        """Take note of a step's loss; return whether the pulse is to beat, the same on all
        ranks."""
        self._losses.append(loss)
        self._steps_left -= 1
        return self._steps_left <= 0

    def beat(self, num_steps: int) -> tuple[int | None, bool]:
        """Return the first step whose loss was not finite on any rank, if any, and whether a
        checkpoint is due.

        Steps count from 1, and `num_steps` were taken. All ranks get the same answers (collective).
        """
        now = time.monotonic()
        is_due = (
            self._checkpoint_seconds is not None
            and now - self._last_checkpoint >= self._checkpoint_seconds
        )
        mean_seconds = (now - self._last_beat) / max(1, len(self._losses))
        answers = self._communicator.allgather_objects(
            (self._first_bad_step(num_steps), is_due, mean_seconds)
        )
        bad = [step for step, _, _ in answers if step is not None]
        is_due = answers[0][1]  # the first rank's clock counts
        if is_due:
            self._last_checkpoint = now
        slowest = max(seconds for _, _, seconds in answers)
        self._steps_left = max(1, min(MAX_STEPS_BETWEEN, int(SECONDS_BETWEEN / max(slowest, 1e-9))))
        self._last_beat = time.monotonic()
        return min(bad, default=None), is_due

    def _first_bad_step(self, num_steps: int) -> int | None:
        if not self._losses:
            return None
        is_bad = ~torch.stack([loss.double() for loss in self._losses]).isfinite()
        first = num_steps - len(self._losses) + 1
        self._losses.clear()
        return first + int(is_bad.int().argmax()) if bool(is_bad.any()) else None
