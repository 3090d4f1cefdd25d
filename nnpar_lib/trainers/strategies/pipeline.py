"""Model parallelism between layers: each rank holds stages of the model, and micro-batches flow
through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from nnpar_lib import schedules
from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.schedules import Instruction
from nnpar_lib.trainers.communication.communicator import Communicator, Request
from nnpar_lib.trainers.data.batches import Batch, Batches, BatchSource, load
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.memory import measure
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.stage import Stage, stage_bounds
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, OTHER, RECEIVE, SEND, WAIT, Timeline


class Pipeline:
    """Execute the instructions of a schedule on this rank's stages.

    Messages are non-blocking and have buffers of their own, which live as long as their
    micro-batch; sends are waited for at the end of a step. The gradients of the micro-batches add
    up to that of the batch.
    """

    measures_wait: bool = True

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        size = config.num_stage_ranks
        self.data_size, self.data_rank = communicator.size // size, communicator.rank // size
        self._config, self._timeline, self._world = config, timeline, communicator
        self._group = communicator.split([rank // size for rank in range(communicator.size)])
        self._pipeline = config.pipeline
        self._own = self._pipeline.stages_of(self._group.rank)
        self._bounds = stage_bounds(config, self._group)
        shapes = networks.boundary_shapes(config)
        self._input_shapes = [shapes[bounds.start] for bounds in self._bounds]
        self._output_shapes = [shapes[bounds.stop] for bounds in self._bounds]
        self._build_stages()
        self._has_last = self._pipeline.num_stages - 1 in self._own
        self._instructions = list(
            schedules.instructions(config.schedule, self._pipeline, self._group.rank)
        )
        self.batches: Batches = BatchSource(
            load(config.dataset),
            config,
            self.data_size,
            self.data_rank,
            with_images=0 in self._own,
            is_counted=self._has_last,
        )
        self._actions = {
            schedules.FORWARD: self._forward,
            schedules.BACKWARD: self._backward,
            schedules.SEND_ACTIVATION: self._send,
            schedules.SEND_GRADIENT: self._send,
            schedules.RECEIVE_ACTIVATION: self._receive,
            schedules.RECEIVE_GRADIENT: self._receive,
        }

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on a global batch; the loss is on the rank of the last stage, zero elsewhere."""
        self._compute_gradient(batch)
        self._replica.update(step)
        return self._loss_sum

    def synchronise(self) -> None: ...

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the logits on the rank of the last stage; all ranks of a pipeline have to call
        this (collective)."""
        num_examples, output = len(images), images
        for stage in self._own:
            if stage > 0 and self._group.size > 1:
                output = self._empty(num_examples, self._input_shapes[stage])
                self._group.start_receive_(output, self._pipeline.rank_of(stage - 1), stage).wait()
            output = self._stages[stage].predict(output)
            if stage + 1 < self._pipeline.num_stages and self._group.size > 1:
                self._group.start_send(output, self._pipeline.rank_of(stage + 1), stage + 1).wait()
        return output if self._has_last else output.new_empty(0, networks.NUM_CLASSES)

    def whole_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters of all stages in turn, each from the rank that holds it
        (collective)."""
        return self.whole_values([parameter.detach() for parameter in self._replica.parameters])

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values of all stages in turn, each from the rank that holds it (collective)."""
        mine = (value.contiguous() for value in values)
        own = {
            stage: [next(mine) for _ in module.parameters()]
            for stage, module in self._modules.items()
        }
        for stage in range(self._pipeline.num_stages):
            source, shapes = (
                self._pipeline.rank_of(stage),
                [value.shape for value in own.get(stage, [])],
            )
            for index, shape in enumerate(self._group.allgather_objects(shapes)[source]):
                value = own[stage][index] if stage in own else self._gradient.new_empty(shape)
                self._group.broadcast_(value, source)
                yield value

    def own_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return the values of this rank's stages (collective)."""
        counts: dict[int, int] = {}
        for found in self._group.allgather_objects(
            {stage: len(list(module.parameters())) for stage, module in self._modules.items()}
        ):
            counts |= found
        ends = list(accumulate(counts[stage] for stage in range(self._pipeline.num_stages)))
        return [
            value
            for stage in self._own
            for value in whole[ends[stage] - counts[stage] : ends[stage]]
        ]

    def state(self) -> State:
        """Return this rank's parameters and their optimizer's state."""
        return self._replica.state()

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._replica.restore(state)

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return what this rank holds in memory, and its peak of activations when this schedule
        runs (collective)."""
        return measure(self._replica, lambda: self._compute_gradient(batch))

    def reset(self) -> None:
        """Go back to the initial weights."""
        self._replica.reset()

    def close(self) -> None: ...

    def _build_stages(self) -> None:
        """Build the blocks of this rank's stages; the others are dropped as soon as they have been
        drawn."""
        wanted = {
            block: stage
            for stage in self._own
            for block in range(*self._bounds[stage].indices(10**9))
        }
        self._modules = {stage: networks.network(self._config) for stage in self._own}
        for index, block in enumerate(networks.blocks(self._config)):
            if index in wanted:
                self._modules[wanted[index]].append(block)
        self._replica = Replica(
            self._config, self._timeline, nn.Sequential(*self._modules.values())
        )
        self._use_gradient(torch.zeros_like(self._replica.weights))

    def _use_gradient(self, buffer: Tensor) -> None:
        """Let this flat buffer hold the gradient of all of this rank's stages."""
        self._gradient = buffer
        self._replica.use_gradient(buffer)
        self._stages: dict[int, Stage] = {}
        views = iter(range(len(self._replica.parameters)))
        for stage, module in self._modules.items():
            segments = self._segments(module)
            gradients = [
                [self._replica.view_of_gradient(next(views)) for _ in segment.parameters()]
                for segment in segments
            ]
            self._stages[stage] = Stage(segments, gradients)

    def _segments(self, module: nn.Sequential) -> list[nn.Sequential]:
        return [module]

    def _compute_gradient(self, batch: Batch) -> None:
        """Execute the instructions of a step."""
        self._batch = batch
        self._parts = [
            part(len(batch.labels), self._pipeline.num_microbatches, microbatch)
            for microbatch in range(self._pipeline.num_microbatches)
        ]
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self._config.device)
        self._results: dict[tuple[str, int, int], Tensor] = {}
        self._arriving: dict[tuple[str, int, int], tuple[Request, Tensor]] = {}
        self._sends: list[Request] = []
        self._gradient.zero_()
        self._timeline.lap(OTHER)
        for instruction in self._instructions:
            self._actions[instruction.action](instruction)
        for send in self._sends:
            send.wait()
        self._timeline.lap(SEND)

    def _forward(self, one: Instruction) -> None:
        stage, microbatch, own = one.stage, one.microbatch, self._parts[one.microbatch]
        images = (
            self._batch.images[own]
            if stage == 0
            else self._take(FORWARD, stage, microbatch).requires_grad_()
        )
        is_last = stage + 1 == self._pipeline.num_stages
        output = self._stages[stage].forward(
            microbatch, images, self._batch.labels[own] if is_last else None
        )
        if is_last:
            self._loss_sum += output
        else:
            self._results[FORWARD, stage + 1, microbatch] = output
        self._timeline.lap(FORWARD, stage, microbatch)

    def _backward(self, one: Instruction) -> None:
        stage, microbatch = one.stage, one.microbatch
        if stage + 1 == self._pipeline.num_stages:
            gradient = torch.full(
                (),
                1 / self._batch.num_global_examples,
                dtype=self._gradient.dtype,
                device=self._gradient.device,
            )
        else:
            gradient = self._take(BACKWARD, stage, microbatch)
        found = self._pass_back(stage, microbatch, gradient)
        if found is not None:
            self._results[BACKWARD, stage - 1, microbatch] = found
        self._timeline.lap(BACKWARD, stage, microbatch)

    def _pass_back(self, stage: int, microbatch: int, gradient: Tensor) -> Tensor | None:
        return self._stages[stage].backward(microbatch, gradient)

    def _take(self, direction: str, stage: int, microbatch: int) -> Tensor:
        """Return the activation or gradient that a computation needs, once it is there."""
        key = direction, stage, microbatch
        if key in self._results:
            return self._results.pop(key)  # from another stage on this rank
        request, buffer = self._arriving.pop(key)
        request.wait()
        self._timeline.lap(WAIT, stage, microbatch)
        return buffer

    def _receive(self, one: Instruction) -> None:
        is_forward = one.action == schedules.RECEIVE_ACTIVATION
        own, shapes = (
            self._parts[one.microbatch],
            self._input_shapes if is_forward else self._output_shapes,
        )
        buffer = self._empty(own.stop - own.start, shapes[one.stage])
        source = self._pipeline.rank_of(one.stage + (-1 if is_forward else 1))
        direction = FORWARD if is_forward else BACKWARD
        request = self._group.start_receive_(
            buffer, source, self._tag(direction, one.stage, one.microbatch)
        )
        self._arriving[direction, one.stage, one.microbatch] = request, buffer
        self._timeline.lap(RECEIVE, one.stage, one.microbatch)

    def _send(self, one: Instruction) -> None:
        is_forward = one.action == schedules.SEND_ACTIVATION
        direction, target = (FORWARD, one.stage + 1) if is_forward else (BACKWARD, one.stage - 1)
        message = self._results.pop((direction, target, one.microbatch)).contiguous()
        self._sends.append(
            self._group.start_send(
                message,
                self._pipeline.rank_of(target),
                self._tag(direction, target, one.microbatch),
            )
        )
        self._timeline.lap(SEND, one.stage, one.microbatch)

    def _tag(self, direction: str, stage: int, microbatch: int) -> int:
        """Return the number that tells this message from every other one of a step."""
        return 2 * (stage * self._pipeline.num_microbatches + microbatch) + (direction == BACKWARD)

    def _empty(self, num_examples: int, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(
            num_examples, *shape, dtype=self._gradient.dtype, device=self._gradient.device
        )
