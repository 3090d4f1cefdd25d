"""Pipeline parallelism: each rank holds stages of the model; micro-batches pass through them."""

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
from nnpar_lib.trainers.step.stage import OnGradient, Stage, stage_bounds
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.timeline import (
    BACKWARD,
    FORWARD,
    OTHER,
    RECEIVE,
    SEND,
    WAIT,
    WEIGHT_GRADIENTS,
    Timeline,
)


class Pipeline:
    """Execute the instructions of a schedule on this rank's stages.

    Each message is non-blocking and has a buffer, which lives as long as its micro-batch; sends are
    completed at the end of a step. The gradients of the micro-batches add up to that of the batch.
    """

    measures_wait: bool = True

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        size = config.num_stage_ranks
        self.data_size = communicator.size // size
        self.data_rank = communicator.rank // size
        self._config = config
        self._timeline = timeline
        self._group = communicator.split([rank // size for rank in range(communicator.size)])
        self._pipeline = config.pipeline
        self._is_split = config.schedule in schedules.SPLITTING
        self._local_stages = self._pipeline.stages_of(self._group.rank)
        self._bounds = stage_bounds(config, self._group)
        shapes = networks.boundary_shapes(config)
        self._input_shapes = [shapes[bounds.start] for bounds in self._bounds]
        self._output_shapes = [shapes[bounds.stop] for bounds in self._bounds]
        self._build_stages()
        self._has_last = self._pipeline.num_stages - 1 in self._local_stages
        self._instructions = list(
            schedules.instructions(config.schedule, self._pipeline, self._group.rank)
        )
        self.batches: Batches = BatchSource(
            load(config.dataset),
            config,
            self.data_size,
            self.data_rank,
            with_images=0 in self._local_stages,
            is_counted=self._has_last,
        )
        self._actions = {
            schedules.FORWARD: self._forward,
            schedules.BACKWARD: self._backward,
            schedules.WEIGHT_GRADIENTS: self._add_weight_gradients,
            schedules.SEND_ACTIVATION: self._send,
            schedules.SEND_GRADIENT: self._send,
            schedules.RECEIVE_ACTIVATION: self._receive,
            schedules.RECEIVE_GRADIENT: self._receive,
        }

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on a global batch; return its loss on the rank of the last stage, else zero."""
        self._compute_gradient(batch)
        self._replica.update(step)
        return self._loss_sum

    def synchronise(self) -> None: ...

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the logits on the rank of the last stage (collective over a pipeline)."""
        num_examples = len(images)
        output = images
        for stage in self._local_stages:
            if stage > 0 and self._group.size > 1:
                output = self._empty(num_examples, self._input_shapes[stage])
                self._group.start_receive_(output, self._pipeline.rank_of(stage - 1), stage).wait()
            output = self._stages[stage].predict(output)
            if stage + 1 < self._pipeline.num_stages and self._group.size > 1:
                self._group.start_send(output, self._pipeline.rank_of(stage + 1), stage + 1).wait()
        return output if self._has_last else output.new_empty(0, networks.NUM_CLASSES)

    def whole_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters of all stages, each from the rank that holds it (collective)."""
        return self.whole_values([parameter.detach() for parameter in self._replica.parameters])

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values of all stages, each from the rank that holds it (collective)."""
        remaining = (value.contiguous() for value in values)
        local: dict[int, list[Tensor]] = {}
        for stage, module in self._modules.items():
            local[stage] = [next(remaining) for _ in module.parameters()]
        for stage in range(self._pipeline.num_stages):
            source = self._pipeline.rank_of(stage)
            shapes = [value.shape for value in local.get(stage, [])]
            for index, shape in enumerate(self._group.allgather_objects(shapes)[source]):
                value = local[stage][index] if stage in local else self._gradient.new_empty(shape)
                self._group.broadcast_(value, source)
                yield value

    def local_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return the values of this rank's stages (collective)."""
        local_counts = {
            stage: len(list(module.parameters())) for stage, module in self._modules.items()
        }
        counts: dict[int, int] = {}
        for rank_counts in self._group.allgather_objects(local_counts):
            counts |= rank_counts
        ends = list(accumulate(counts[stage] for stage in range(self._pipeline.num_stages)))
        values: list[Tensor] = []
        for stage in self._local_stages:
            values += whole[ends[stage] - counts[stage] : ends[stage]]
        return values

    def state(self) -> State:
        """Return this rank's parameters and their optimizer's state."""
        return self._replica.state()

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._replica.restore(state)

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return the bytes that this rank holds, with this schedule's peak of activations
        (collective).

        Where backward passes are split, `waiting` are the gradients between their parts.
        """
        memory = measure(self._replica, lambda: self._compute_gradient(batch))
        if self._is_split:
            memory["waiting"] = sum(stage.most_waiting_bytes for stage in self._stages.values())
        return memory

    def reset(self) -> None:
        """Go back to the initial weights."""
        self._replica.reset()

    def close(self) -> None: ...

    def _build_stages(self) -> None:
        """Build the blocks of this rank's stages.

        All blocks are drawn, so that the random numbers are those of the whole model; the rest are
        dropped at once.
        """
        stage_of: dict[int, int] = {}
        for stage in self._local_stages:
            bounds = self._bounds[stage]
            stage_of |= dict.fromkeys(range(bounds.start, bounds.stop), stage)
        self._modules = {stage: networks.network(self._config) for stage in self._local_stages}
        for index, block in enumerate(networks.blocks(self._config)):
            if index in stage_of:
                self._modules[stage_of[index]].append(block)
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

    def _forward(self, instruction: Instruction) -> None:
        stage = instruction.stage
        microbatch = instruction.microbatch
        examples = self._parts[microbatch]
        if stage == 0:
            images = self._batch.images[examples]
        else:
            images = self._take(FORWARD, stage, microbatch).requires_grad_()
        is_last = stage + 1 == self._pipeline.num_stages
        labels = self._batch.labels[examples] if is_last else None
        output = self._stages[stage].forward(microbatch, images, labels)
        if is_last:
            self._loss_sum += output
        else:
            self._results[FORWARD, stage + 1, microbatch] = output
        self._timeline.lap(FORWARD, stage, microbatch)

    def _backward(self, instruction: Instruction) -> None:
        stage = instruction.stage
        microbatch = instruction.microbatch
        if stage + 1 == self._pipeline.num_stages:
            gradient = torch.full(
                (),
                1 / self._batch.num_global_examples,
                dtype=self._gradient.dtype,
                device=self._gradient.device,
            )
        else:
            gradient = self._take(BACKWARD, stage, microbatch)
        input_gradient = self._pass_back(stage, microbatch, gradient)
        if input_gradient is not None:
            self._results[BACKWARD, stage - 1, microbatch] = input_gradient
        self._timeline.lap(BACKWARD, stage, microbatch)

    def _pass_back(self, stage: int, microbatch: int, gradient: Tensor) -> Tensor | None:
        if self._is_split:
            return self._stages[stage].backward_inputs(microbatch, gradient)
        return self._stages[stage].backward(microbatch, gradient, self._on_gradient(stage))

    def _add_weight_gradients(self, instruction: Instruction) -> None:
        stage = instruction.stage
        microbatch = instruction.microbatch
        self._stages[stage].backward_weights(microbatch, self._on_gradient(stage))
        self._timeline.lap(WEIGHT_GRADIENTS, stage, microbatch)

    def _on_gradient(self, stage: int) -> OnGradient | None:
        """Return what to call when gradients of this pass over a stage are complete."""
        return None

    def _take(self, direction: str, stage: int, microbatch: int) -> Tensor:
        """Wait for the activation or gradient that a computation needs, and return it."""
        key = direction, stage, microbatch
        if key in self._results:
            return self._results.pop(key)  # from another stage on this rank
        request, buffer = self._arriving.pop(key)
        request.wait()
        self._timeline.lap(WAIT, stage, microbatch)
        return buffer

    def _receive(self, instruction: Instruction) -> None:
        stage = instruction.stage
        microbatch = instruction.microbatch
        if instruction.action == schedules.RECEIVE_ACTIVATION:
            direction = FORWARD
            source_stage = stage - 1
            shape = self._input_shapes[stage]
        else:
            direction = BACKWARD
            source_stage = stage + 1
            shape = self._output_shapes[stage]
        examples = self._parts[microbatch]
        buffer = self._empty(examples.stop - examples.start, shape)
        source = self._pipeline.rank_of(source_stage)
        request = self._group.start_receive_(
            buffer, source, self._tag(direction, stage, microbatch)
        )
        self._arriving[direction, stage, microbatch] = request, buffer
        self._timeline.lap(RECEIVE, stage, microbatch)

    def _send(self, instruction: Instruction) -> None:
        stage = instruction.stage
        microbatch = instruction.microbatch
        is_forward = instruction.action == schedules.SEND_ACTIVATION
        direction = FORWARD if is_forward else BACKWARD
        target_stage = stage + 1 if is_forward else stage - 1
        message = self._results.pop((direction, target_stage, microbatch)).contiguous()
        target = self._pipeline.rank_of(target_stage)
        tag = self._tag(direction, target_stage, microbatch)
        self._sends.append(self._group.start_send(message, target, tag))
        self._timeline.lap(SEND, stage, microbatch)

    def _tag(self, direction: str, stage: int, microbatch: int) -> int:
        """Return the tag of a message, which no other message of a step has."""
        return 2 * (stage * self._pipeline.num_microbatches + microbatch) + (direction == BACKWARD)

    def _empty(self, num_examples: int, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(
            num_examples, *shape, dtype=self._gradient.dtype, device=self._gradient.device
        )
