"""Steps on a CPU that are recorded: the same operations on the same tensors, without autograd.

A small step costs more in bookkeeping than in arithmetic. Here no graph is built, no intermediate
result is allocated, and each gradient is written to its place in the flat buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from nnpar_lib.config import RunConfig
from nnpar_lib.config.rules import unrecorded_on_cpu
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.step.recording import Recorded, Work, state_tensors
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, UPDATE, Timeline

aten = torch.ops.aten
SUM = 2  # aten's number of reduction="sum"
NO_LABEL = -100  # torch's label of examples to leave out


class LinearPasses:
    """Forward and backward pass of linear layers with a ReLU between two, for n examples.

    The operations are those that autograd would run, in its order, so the numbers are the same to
    the last bit. All tensors but the images exist before the first pass.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        gradients: Sequence[Tensor],
        num_examples: int,
    ) -> None:
        """Take weights [out, in], biases [out], and where the gradient of each of them goes."""
        self._weights = weights
        self._transposed = [weight.t() for weight in weights]
        self._biases = biases
        self._weight_gradients = gradients[0::2]
        self._bias_gradients = gradients[1::2]
        self._outputs = [weight.new_empty(num_examples, len(weight)) for weight in weights]
        self._output_gradients = [weight.new_empty(num_examples, len(weight)) for weight in weights]
        self._columns = [gradient.t() for gradient in self._output_gradients]
        self._log_probabilities = torch.empty_like(self._outputs[-1])
        self._gradient_of_log = torch.empty_like(self._outputs[-1])
        self._scale = weights[0].new_empty(())
        self._num_examples = weights[0].new_tensor(num_examples)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the cross-entropy losses, a new scalar."""
        inputs = images.flatten(1)
        for layer, output in enumerate(self._outputs):
            torch.addmm(self._biases[layer], inputs, self._transposed[layer], out=output)
            if output is not self._outputs[-1]:
                output.relu_()
            inputs = output
        torch.log_softmax(self._outputs[-1], 1, out=self._log_probabilities)
        return functional.nll_loss(self._log_probabilities, labels, reduction="sum")

    def backward(self, images: Tensor, labels: Tensor, scale: float, *, accumulate: bool) -> None:
        """Write `scale` times the gradient of the last forward pass, or add it to what is there."""
        self._differentiate_loss(labels, scale)
        inputs = [images.flatten(1), *self._outputs[:-1]]
        for layer in reversed(range(len(self._weights))):
            self._differentiate_layer(layer, inputs[layer], accumulate=accumulate)
            if layer:
                gradient = self._output_gradients[layer - 1]
                torch.mm(self._output_gradients[layer], self._weights[layer], out=gradient)
                aten.threshold_backward.grad_input(gradient, inputs[layer], 0, grad_input=gradient)

    def _differentiate_loss(self, labels: Tensor, scale: float) -> None:
        """Write the gradient by the logits, with the kernels of torch's cross entropy."""
        aten.nll_loss_backward.grad_input(
            self._scale.fill_(scale),
            self._log_probabilities,
            labels,
            None,
            SUM,
            NO_LABEL,
            self._num_examples,
            grad_input=self._gradient_of_log,
        )
        aten._log_softmax_backward_data.out(
            self._gradient_of_log,
            self._log_probabilities,
            1,
            self._scale.dtype,
            out=self._output_gradients[-1],
        )

    def _differentiate_layer(self, layer: int, inputs: Tensor, *, accumulate: bool) -> None:
        gradient = self._output_gradients[layer]
        if accumulate:
            self._weight_gradients[layer].add_(torch.mm(self._columns[layer], inputs))
            self._bias_gradients[layer].add_(gradient.sum(0))
            return
        torch.mm(self._columns[layer], inputs, out=self._weight_gradients[layer])
        torch.sum(gradient, 0, out=self._bias_gradients[layer])


class OperationTape(TorchDispatchMode):
    """Keeps the operations that run while it is entered, with their tensors and numbers.

    They must work in place: what an operation returns afresh would not reach the next replay. The
    marks that torch sets for its profiler are left out.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = partial(operation, *args, **(kwargs or {}))
        if operation.namespace != "profiler":
            if not operation._schema.is_mutable:
                raise RuntimeError(f"{operation.name()} is not in place and cannot be recorded")
            self._calls.append(call)
        return call()

    def replay(self) -> None:
        """Run the operations again."""
        with torch.no_grad():
            for call in self._calls:
                call()


class OperationRecorder:
    """Records work as the list of its operations, which are run without the code around them."""

    def rehearse(self, work: Work) -> None:
        work()

    def record(self, work: Work) -> Work:
        tape = OperationTape()
        with tape:
            work()
        return tape.replay


class OperationReplica(Replica):
    """A replica of a stack of linear layers whose gradient, and whose update, are recorded.

    A learning rate that changes is a number, which a record would repeat; the update is then
    torch's.
    """

    def __init__(self, config: RunConfig, timeline: Timeline) -> None:
        if problem := unrecorded_on_cpu(config):
            raise ValueError(problem)
        self._passes: dict[int, LinearPasses] = {}  # by number of examples
        super().__init__(config, timeline)
        self._take_step = Recorded(
            OperationRecorder(), self._step_optimizer, self._tensors_of_update
        )

    def use_gradient(self, buffer: Tensor) -> None:
        """Let this flat buffer, such as that of an all-reduce, hold the gradient."""
        super().use_gradient(buffer)
        self._passes.clear()

    def share_weights(self, flat: Tensor, local_part: slice, *, gradient: Tensor) -> None:
        """Let this flat buffer hold the weights of all ranks of a node; update the local part
        only."""
        super().share_weights(flat, local_part, gradient=gradient)
        self._passes.clear()

    def compute_gradient(self, batch: Batch) -> Tensor:
        """Write this rank's addend of the mean gradient to the flat buffer; return its sum of
        losses."""
        first, *later = self._microbatches(batch)
        total = self._run_passes(first, accumulate=False)
        for microbatch in later:
            total = total + self._run_passes(microbatch, accumulate=True)
        return total

    def update(self, step: int) -> None:
        """Take an optimizer step with the gradient buffer as it is."""
        if self._config.lr_schedule != "constant":
            super().update(step)
            return
        self._take_step()
        self._timeline.lap(UPDATE)

    @torch.no_grad()
    def _run_passes(self, batch: Batch, *, accumulate: bool) -> Tensor:
        passes = self._passes_for(len(batch.labels))
        loss_sum = passes.forward(batch.images, batch.labels)
        self._timeline.lap(FORWARD)
        passes.backward(
            batch.images, batch.labels, 1 / batch.num_global_examples, accumulate=accumulate
        )
        self._timeline.lap(BACKWARD)
        return loss_sum

    def _passes_for(self, num_examples: int) -> LinearPasses:
        """Return the passes for this many examples, with the weights where they lie now."""
        if num_examples not in self._passes:
            values = [parameter.detach() for parameter in self.parameters]
            self._passes[num_examples] = LinearPasses(
                values[0::2], values[1::2], self._gradient_views, num_examples
            )
        return self._passes[num_examples]

    def _step_optimizer(self) -> None:
        self.optimizer.step()

    def _tensors_of_update(self) -> Iterable[Tensor]:
        assert self.weights.grad is not None
        yield from (self.weights, self.weights.grad, *state_tensors(self.optimizer))
