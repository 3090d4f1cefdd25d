"""Somebody's own training step, compared with serial training on these ranks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nnpar_lib.parts import part
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.tasks import example_weights
from nnpar_lib.trainers.tasks.user_code import AgreedError, UserCode
from nnpar_lib.trainers.tasks.user_messages import communicator_of
from nnpar_lib.trainers.tasks.user_subject import Case, Part, Subject, cases, load_all, save_all

Row = dict[str, Any]


def verify_packed_step(packed: bytes) -> dict[str, Any]:
    """Verify a step that was sent by `cloudpickle` (collective over the world)."""
    return verify_step(**pickle.loads(packed))


def verify_step(num_ranks: int, names: tuple[str, ...], **subject: Any) -> dict[str, Any]:
    """Compare a step with serial training on 1 to `num_ranks` of the ranks (collective).

    `names` are the cases that are tried, all where there are none. Return on all ranks the cases
    that were tried, `tried`; what differs in each at the first step that differs, `rows`; and what
    the user's functions raised, `error`.
    """
    ranks = world()
    verified = Subject(**subject)
    rows: list[Row] = []
    tried: list[tuple[str, int]] = []
    error = ""
    for size in range(1, num_ranks + 1):
        group = ranks.first_ranks(size)
        chosen = [case for case in cases(size) if not names or case.name in names]
        tried += [(case.name, size) for case in chosen]
        if group is not None:
            try:
                rows += [row for case in chosen for row in _run(case, verified, group)]
            except AgreedError as raised:
                error = str(raised)
        ranks.idle_barrier()
        error = ranks.broadcast_object(error)
        if error:
            break
    return {"tried": tried, "rows": ranks.broadcast_object(rows), "error": error}


def _run(case: Case, subject: Subject, group: Communicator) -> list[Row]:
    """Return what differs at the first step that differs, on all ranks of the group."""
    trial = _Trial(case, subject, group)
    with communicator_of(subject.over, group) as communicator:
        for number in range(len(case.batch_sizes)):
            differing = trial.step(number, communicator)
            rows = [row for rank_rows in group.allgather_objects(differing) for row in rank_rows]
            if rows:
                return rows
    return _distinct_copies(case, trial.model, group)


class _Trial:
    """The steps of a case on this rank: those of the user's copy and those of a serial one."""

    def __init__(self, case: Case, subject: Subject, group: Communicator) -> None:
        self.case = case
        self.subject = subject
        self.group = group
        self.code = UserCode(subject.step, group, subject.seconds)
        self.inputs, self.targets = subject.data()
        self.model, self.optimizer = subject.build()
        self.serial, self.serial_optimizer = subject.build()
        self.before = self.serial
        self.updates = subject.optimizer is not None

    def step(self, number: int, communicator: Any) -> list[Row]:
        """Take a step both ways, and return what differs afterwards."""
        if number == self.case.resume_before:
            self._resume()
        whole = self._batch(number)
        older = self.before
        self.before = copy.deepcopy(self.serial)
        weights_before = _flat(self.model.parameters())
        self._take(self._local_part(whole), communicator)
        self._take_serially(whole)
        differing = self._differing(number)
        if differing:
            names = {row["parameter"] for row in differing}
            gradient = self._gradient(weights_before)
            words = self._explain_buffers(names) or self._explain(whole, gradient, number, older)
            differing = [{**row, "explanation": words} for row in differing]
        if not self.updates:
            self.optimizer.step()
            self.serial_optimizer.step()
        return differing

    def _local_part(self, whole: Part) -> Part:
        mine = part(whole.num_global_examples, self.group.size, self.group.rank)
        return Part(whole.inputs[mine], whole.targets[mine], whole.num_global_examples)

    def _batch(self, number: int) -> Part:
        start = sum(self.case.batch_sizes[:number])
        size = self.case.batch_sizes[number]
        chosen = torch.arange(start, start + size) % len(self.targets)
        return Part(self.inputs[chosen], self.targets[chosen], size)

    def _take(self, local: Part, communicator: Any) -> None:
        """Let the user's function take its step; without an optimizer it leaves a gradient."""
        if self.updates:
            self.code.run(self.model, local, communicator, self.optimizer)
            return
        self.optimizer.zero_grad()
        self.code.run(self.model, local, communicator)

    def _take_serially(self, whole: Part) -> None:
        self.serial_optimizer.zero_grad()
        outputs = self.serial(whole.inputs)
        loss = self.subject.loss_sum()(outputs, whole.targets) / whole.num_global_examples
        loss.backward()
        if self.updates:
            self.serial_optimizer.step()

    def _resume(self) -> None:
        """Save, and go on with a new model and a new optimizer, as a new process would."""
        save = self.subject.save or save_all
        load = self.subject.load or load_all
        saved = copy.deepcopy(self.code.run_hook(save, self.model, self.optimizer))
        self.model, self.optimizer = self.subject.build()
        self.code.run_hook(load, saved, self.model, self.optimizer)

    def _differing(self, number: int) -> list[Row]:
        """Return a row for each parameter, gradient or buffer that differs on this rank."""
        serial = dict(self._compared(self.serial))
        rows = []
        for name, value in self._compared(self.model):
            absolute, relative = _difference(value, serial[name])
            if not relative <= self.subject.bound:
                rows.append(self._row(number, name, absolute, relative))
        return rows

    def _compared(self, model: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
        for name, parameter in model.named_parameters():
            yield name, parameter.detach() if self.updates else parameter.grad
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                yield name, buffer

    def _row(self, number: int, name: str, absolute: float, relative: float) -> Row:
        return {
            "check": self.case.name,
            "num_ranks": self.group.size,
            "step": number,
            "batch_size": self.case.batch_sizes[number],
            "rank": self.group.rank,
            "parameter": name,
            "absolute": absolute,
            "relative": relative,
        }

    def _gradient(self, weights_before: Tensor) -> Tensor | None:
        """Return the gradient by which the user's copy has been moved, None where it is hidden."""
        if not self.updates:
            gradients = [parameter.grad for parameter in self.model.parameters()]
            if any(gradient is None for gradient in gradients):
                return None
            return _flat(gradients)
        group = self.optimizer.param_groups[0]
        is_plain = isinstance(self.optimizer, torch.optim.SGD) and not group["weight_decay"]
        if not is_plain or group["momentum"] or group["nesterov"]:
            return None
        moved: Tensor = weights_before - _flat(self.model.parameters())
        return moved / float(group["lr"])

    def _explain_buffers(self, names: set[str]) -> str:
        """Return what it means if nothing but buffers differs, "" where weights do."""
        if names & {name for name, _ in self.model.named_parameters()}:
            return ""
        return (
            "only buffers differ, such as the running statistics of a normalisation: they have to"
            " be those of the whole batch"
        )

    def _explain(self, whole: Part, gradient: Tensor | None, number: int, older: nn.Module) -> str:
        """Return in words why this rank's gradient differs, "" where that is not known."""
        if number == self.case.resume_before and self.updates:
            return (
                "the first step after a resume differs: `save` and `load` leave out something that"
                " the next step depends on, such as the optimizer's momenta"
            )
        if gradient is None:
            return ""
        loss = self.subject.loss_sum()
        data = (whole.inputs, whole.targets, loss, gradient)
        weights = example_weights.find(self.before, *data)
        if weights is not None:
            count = whole.num_global_examples
            sizes = [_length(count, self.group.size, rank) for rank in range(self.group.size)]
            return example_weights.describe(weights, sizes, self.group.rank)
        if number > 0 and example_weights.find(older, *data) is not None:
            return "the gradient is taken at the weights from before the last update"
        return ""


def _distinct_copies(case: Case, model: nn.Module, group: Communicator) -> list[Row]:
    """Return a row where the ranks' copies of the weights are not the same numbers."""
    copies = group.allgather_objects(_flat(model.parameters()).numpy().tobytes())
    differing = [rank for rank, weights in enumerate(copies) if weights != copies[0]]
    return [
        {
            "check": case.name,
            "num_ranks": group.size,
            "step": len(case.batch_sizes) - 1,
            "batch_size": case.batch_sizes[-1],
            "rank": rank,
            "parameter": "all weights",
            "absolute": 0.0,
            "relative": 0.0,
            "explanation": "the copy differs from rank 0's by rounding, and copies drift apart:"
            " ranks have to compute the sum in the same order, or one computes it for all",
        }
        for rank in differing
    ]


def _length(num_items: int, size: int, rank: int) -> int:
    return len(range(num_items)[part(num_items, size, rank)])


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().cpu().reshape(-1).double() for tensor in tensors])


def _difference(value: Tensor | None, reference: Tensor | None) -> tuple[float, float]:
    """Return the largest absolute difference, and its ratio to the reference's largest value.

    A gradient that is not there differs by all of it.
    """
    if reference is None:
        return (0.0, 0.0) if value is None else (float(value.abs().max()), float("inf"))
    size = float(reference.abs().max())
    if value is None or value.shape != reference.shape:
        return size, 1.0
    absolute = float((value.double() - reference.double()).abs().max())
    return absolute, absolute / max(size, torch.finfo(torch.float32).tiny)
