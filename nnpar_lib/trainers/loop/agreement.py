"""What the ranks of a run agree on periodically: whether it has diverged, whether a checkpoint is
due."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from nnpar_lib.trainers.communication.communicator import Communicator

SECONDS_BETWEEN = 0.1
MAX_STEPS_BETWEEN = 1000


class Decision(NamedTuple):
    """What all ranks have agreed on.

    `diverged_at` is the first step, counted from 1, whose loss was not finite on some rank.
    """

    diverged_at: int | None
    is_checkpoint_due: bool


class Agreement:
    """Ranks agree about ten times a second: rarely enough to cost nothing, often enough to end a
    diverged run at once.

    Losses are read when ranks agree and not in their step, so that no step waits for a device.
    """

    def __init__(self, communicator: Communicator, checkpoint_seconds: float | None) -> None:
        self._communicator = communicator
        self._checkpoint_seconds = checkpoint_seconds
        self._losses: list[Tensor] = []
        self._steps_left = 1
        self._last_agreement = self._last_checkpoint = time.monotonic()

    def note(self, loss: Tensor) -> bool:
        """Keep the loss of a step; return whether `decide` is due, the same on all ranks."""
        self._losses.append(loss)
        self._steps_left -= 1
        return self._steps_left <= 0

    def decide(self, num_steps: int) -> Decision:
        """Return the ranks' decision after `num_steps` steps, the same on all ranks (collective).

        The first rank's clock decides whether a checkpoint is due, the slowest rank's speed when
        ranks agree next.
        """
        now = time.monotonic()
        mean_seconds = (now - self._last_agreement) / max(1, len(self._losses))
        answers = self._communicator.allgather_objects(
            (self._first_bad_step(num_steps), self._is_checkpoint_due(now), mean_seconds)
        )
        is_checkpoint_due = answers[0][1]
        if is_checkpoint_due:
            self._last_checkpoint = now
        slowest = max(seconds for _, _, seconds in answers)
        self._steps_left = max(1, min(MAX_STEPS_BETWEEN, int(SECONDS_BETWEEN / max(slowest, 1e-9))))
        self._last_agreement = time.monotonic()
        bad_steps = [step for step, _, _ in answers if step is not None]
        return Decision(min(bad_steps, default=None), is_checkpoint_due)

    def _is_checkpoint_due(self, now: float) -> bool:
        if self._checkpoint_seconds is None:
            return False
        return now - self._last_checkpoint >= self._checkpoint_seconds

    def _first_bad_step(self, num_steps: int) -> int | None:
        """Return the first step, counted from 1, whose loss was not finite here; forget the
        losses."""
        if not self._losses:
            return None
        is_bad = ~torch.stack([loss.double() for loss in self._losses]).isfinite()
        first = num_steps - len(self._losses) + 1
        self._losses.clear()
        return first + int(is_bad.int().argmax()) if bool(is_bad.any()) else None
