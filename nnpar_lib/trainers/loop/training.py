"""The one training loop: batch -> strategy's step -> evaluation -> record."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.records.provenance import provenance
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import load, normalise
from nnpar_lib.trainers.loop import checkpoint
from nnpar_lib.trainers.loop.agreement import Agreement
from nnpar_lib.trainers.loop.memory_budget import memory_budget
from nnpar_lib.trainers.loop.placement import Placement, describe_gpu, place
from nnpar_lib.trainers.loop.steps import Step, StepSums, take_steps
from nnpar_lib.trainers.loop.tuning import tune
from nnpar_lib.trainers.step.optimizer import learning_rate
from nnpar_lib.trainers.strategies.base import Strategy
from nnpar_lib.trainers.timeline import (
    ACTIVITIES,
    COMMUNICATE,
    OTHER,
    RECEIVE,
    SEND,
    WAIT,
    Timeline,
)

EVALUATION_BATCH_SIZE = 500
Report = Callable[[float, str], None]


def train(
    config: RunConfig,
    communicator: Communicator,
    *,
    report: Report = lambda fraction, text: None,
    experiment: str = "",
    label: str = "",
    repeat: int = 0,
) -> RunRecord:
    """Run a config on all ranks of a communicator of its size (collective).

    Return the record, the same on all ranks. `report` gets the fraction of the steps that is done
    and a line of text, every ten steps and after each epoch.
    """
    if communicator.size != config.num_ranks:
        raise ValueError(
            f"num_ranks={config.num_ranks} but the communicator has {communicator.size} ranks"
        )
    load(config.dataset)  # a memory budget is for training, not for the data set
    with (
        communicator.stall_watch(config.stall_seconds),
        memory_budget(config.memory_budget_mib, config.device),
        checkpoint.reserved(config, communicator),
    ):
        record = _train(config, communicator, report)
    return dataclasses.replace(
        record, config=config.to_dict(), experiment=experiment, label=label, repeat=repeat
    )


def _train(config: RunConfig, communicator: Communicator, report: Report) -> RunRecord:
    origin = provenance()
    placement = place(config, communicator)
    config, tuning = tune(config, communicator) if config.tune else (config, {})
    timeline = Timeline(config.num_traced_steps)
    strategy = strategies.build(config, communicator, timeline)
    memory = communicator.allgather_objects(_warm_up(strategy, timeline, config.num_warmup_steps))
    run = _Run(config, communicator, strategy, timeline, report)
    run.train()
    record = dataclasses.replace(_record(run, placement, origin), memory=memory, tuning=tuning)
    strategy.close()  # not after an error: it is collective, and would wait for the other ranks
    return record


class _Run:
    """A run and its state: losses, examples and history so far."""

    def __init__(
        self,
        config: RunConfig,
        communicator: Communicator,
        strategy: Strategy,
        timeline: Timeline,
        report: Report,
    ) -> None:
        self.config = config
        self.communicator = communicator
        self.strategy = strategy
        self.timeline = timeline
        self.history: list[dict[str, Any]] = []
        self.num_steps = 0
        self.num_examples = 0
        self.diverged_at: int | None = None
        self.resumed_at: list[int] = []
        self._report = report
        self._path = Path(config.checkpoint) if config.checkpoint else None
        self._sums = StepSums(config.device)  # of the epoch so far

    def train(self) -> None:
        """Take all steps; evaluate at the ends of epochs as often as the config says."""
        self.timeline.reset()
        self._resume()
        agreement = Agreement(
            self.communicator, self.config.checkpoint_every if self._path else None
        )
        self.communicator.barrier()
        self.timeline.start()
        for step in take_steps(
            self.strategy, self.timeline, self.num_steps, self.config.total_steps
        ):
            self._count(step)
            is_checkpoint_due = False
            if agreement.note(step.loss_sum) or self._is_at_end_of_epoch:
                self.diverged_at, is_checkpoint_due = agreement.decide(self.num_steps)
                self.timeline.lap(WAIT)
            if self._is_at_end_of_epoch or self.diverged:
                self._end_epoch()
            if is_checkpoint_due or self.num_steps == self.config.total_steps:
                self._save()
            if self.diverged:
                break

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite."""
        return self.diverged_at is not None

    @property
    def _is_at_end_of_epoch(self) -> bool:
        return (
            self.num_steps % self.config.num_steps_per_epoch == 0
            or self.num_steps == self.config.total_steps
        )

    def _count(self, step: Step) -> None:
        """Count a step that was taken, and report every tenth."""
        self._sums.add(step)
        if step.number % 10 == 0:
            self._report_progress()
        self.num_steps += 1

    def _report_progress(self) -> None:
        fraction = self.num_steps / self.config.total_steps
        self._report(fraction, _describe(self.config, self.num_steps, self.history))

    def _resume(self) -> None:
        """Go on from the checkpoint, where there is one (collective)."""
        if self._path is None:
            return
        progress = checkpoint.restore(self._path, self.config, self.strategy, self.communicator)
        if progress is None:
            return
        self.num_steps = progress["num_steps"]
        self.num_examples = progress["num_examples"]
        self.history = progress["history"]
        self.resumed_at = [*progress["resumed_at"], self.num_steps]
        self.timeline.seconds.update(progress["seconds"])
        if self.communicator.rank == 0:  # the first rank holds the sums over all ranks
            self._sums.loss_sum += progress["loss_sum"]
            self._sums.num_examples = progress["num_examples_of_epoch"]

    def _save(self) -> None:
        """Write a checkpoint; its time is not training time (collective)."""
        if self._path is None or self.diverged:
            return
        communicator = self.communicator
        progress = {
            "num_steps": self.num_steps,
            "num_examples": self.num_examples,
            "history": self.history,
            "loss_sum": communicator.sum(float(self._sums.loss_sum)),
            "num_examples_of_epoch": int(communicator.sum(self._sums.num_examples)),
            "seconds": self.mean_seconds(),
            "resumed_at": self.resumed_at,
        }
        checkpoint.save(self._path, self.config, self.strategy, communicator, progress)
        communicator.barrier()
        self.timeline.start()

    def mean_seconds(self) -> dict[str, float]:
        """Return the seconds booked to each activity, means over ranks (collective)."""
        seconds = self.timeline.seconds
        size = self.communicator.size
        return {name: self.communicator.sum(seconds[name]) / size for name in ACTIVITIES}

    def _end_epoch(self) -> None:
        """Stop the clock, then measure what was learnt: losses, and accuracy where it is due."""
        self.strategy.synchronise()
        loss_sum = float(self._sums.loss_sum)  # waits for the device
        self.timeline.lap(OTHER)
        self.communicator.barrier()
        self.timeline.lap(WAIT)
        self.timeline.stop()
        num_examples = int(self.communicator.sum(self._sums.num_examples))
        self.num_examples += num_examples
        epoch = math.ceil(self.num_steps / self.config.num_steps_per_epoch)
        self.history.append(
            {
                "epoch": epoch,
                "step": self.num_steps,
                "train_seconds": self.communicator.max(self.timeline.total_seconds),
                "train_loss": self.communicator.sum(loss_sum) / num_examples,
                "test_accuracy": self._evaluate() if self._is_evaluation_due(epoch) else None,
            }
        )
        self._sums.clear()
        self._report_progress()
        self.communicator.barrier()
        self.timeline.start()

    def _is_evaluation_due(self, epoch: int) -> bool:
        interval = self.config.evaluate_every
        return (
            interval > 0
            and not self.diverged
            and (epoch % interval == 0 or self.num_steps == self.config.total_steps)
        )

    def _evaluate(self) -> float:
        return evaluate(self.strategy, self.config, self.communicator)


@torch.no_grad()
def evaluate(strategy: Strategy, config: RunConfig, communicator: Communicator) -> float:
    """Return the accuracy on the whole test set, each example counted once (collective)."""
    data = load(config.dataset)
    local_part = part(len(data.test_labels), strategy.data_size, strategy.data_rank)
    images = data.test_images[local_part]
    labels = data.test_labels[local_part]
    largest = -(-len(data.test_labels) // strategy.data_size)
    num_batches = -(-largest // EVALUATION_BATCH_SIZE)  # the same on all ranks: predict may gather
    num_correct = 0
    for index in range(num_batches):
        batch = part(len(labels), num_batches, index)
        inputs = normalise(images[batch].to(config.device), data, getattr(torch, config.dtype))
        classes = strategy.predict(inputs).argmax(dim=1).cpu()
        num_correct += int((classes == labels[batch][: len(classes)]).sum())
    return communicator.sum(num_correct) / len(data.test_labels)


def _warm_up(strategy: Strategy, timeline: Timeline, num_steps: int) -> dict[str, int]:
    """Take a few steps and undo them: caches fill, threads start, optimizers allocate their state.

    Return the bytes that the strategy then holds in memory by name; nothing without any steps.
    """
    for _ in take_steps(strategy, timeline, 0, num_steps):
        pass
    memory = strategy.memory_bytes(strategy.batches.batch(0)) if num_steps else {}
    strategy.reset()
    return memory


def _describe(config: RunConfig, step: int, history: list[dict[str, Any]]) -> str:
    text = (
        f"{config.model} {config.strategy} on {config.num_ranks}"
        f" rank{'s' * (config.num_ranks > 1)}: step {step}/{config.total_steps}"
    )
    if history:
        text += f", loss {history[-1]['train_loss']:.4f}"
        if history[-1]["test_accuracy"] is not None:
            text += f", test accuracy {history[-1]['test_accuracy']:.4f}"
    return text


def _record(run: _Run, placement: Placement, origin: dict[str, Any]) -> RunRecord:
    """Gather what the ranks booked and describe the run (collective)."""
    config = run.config
    communicator = run.communicator
    train_seconds = communicator.max(run.timeline.total_seconds)
    means = run.mean_seconds()
    communicate = means[COMMUNICATE] + means[SEND] + means[RECEIVE]
    digest, num_parameters = weights_sha256(run.strategy, communicator)
    last = run.history[-1]
    return RunRecord(
        strategy=config.strategy,
        model=config.model,
        dataset=config.dataset,
        num_ranks=config.num_ranks,
        threads_per_rank=placement.num_threads,
        global_batch_size=config.global_batch_size,
        optimizer=config.optimizer,
        num_steps=run.num_steps,
        num_examples=run.num_examples,
        train_seconds=train_seconds,
        samples_per_second=run.num_examples / train_seconds,
        compute_seconds=sum(means.values()) - communicate - means[WAIT],
        communicate_seconds=communicate,
        wait_seconds=means[WAIT] if run.strategy.measures_wait else None,
        activity_seconds=means,
        final_train_loss=None if run.diverged else last["train_loss"],
        final_test_accuracy=last["test_accuracy"],
        diverged=run.diverged,
        divergence=_divergence(run),
        resumed_at=run.resumed_at,
        weights_sha256=digest,
        num_parameters=num_parameters,
        oversubscribed=placement.oversubscribed,
        bound=placement.bound,
        gpu=describe_gpu(placement, communicator),
        config=config.to_dict(),
        provenance=communicator.broadcast_object(origin),
        history=[_finite(entry) for entry in run.history],
        events=communicator.allgather_objects(run.timeline.events),
    )


def _divergence(run: _Run) -> dict[str, float] | None:
    """Return the first step, counted from 1, whose loss was not finite, and its learning rate."""
    if run.diverged_at is None:
        return None
    return {"step": run.diverged_at, "lr": learning_rate(run.config, run.diverged_at - 1)}


def weights_sha256(strategy: Strategy, communicator: Communicator) -> tuple[str, int]:
    """Return a digest of the weights and their number (collective).

    Parameters pass one at a time, so that no rank needs to hold them all. Raises a RuntimeError
    where the ranks do not hold the same bits.
    """
    digest = hashlib.sha256()
    num_parameters = 0
    for parameter in strategy.whole_parameters():
        digest.update(parameter.detach().cpu().reshape(-1).numpy().data)
        num_parameters += parameter.numel()
    digests = communicator.allgather_objects(digest.hexdigest())
    if len(set(digests)) > 1:
        raise RuntimeError(
            f"the ranks ended with different weights: {[digest[:8] for digest in digests]}"
        )
    return str(digests[0]), num_parameters


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by None: JSON has no such numbers."""
    finite = dict(entry)
    for key, value in entry.items():
        if isinstance(value, float) and not math.isfinite(value):
            finite[key] = None
    return finite
