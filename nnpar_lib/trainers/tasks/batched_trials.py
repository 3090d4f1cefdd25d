"""Many trials of a metaparameter as one program: each operation works on their stacked weights.

A small model leaves most of a GPU idle; many together fill it. The layers of an mlp become batched
matrix products; torch.func.vmap turns the gradient of another model into that of all trials. A GPU
may record and replay the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step import build, cuda_graph
from nnpar_lib.trainers.step.build import build_batches
from nnpar_lib.trainers.step.cuda_graph import StaticBatch
from nnpar_lib.trainers.step.optimizer import learning_rate
from nnpar_lib.trainers.step.recording import Recorded

OPTIMIZERS = ("sgd", "momentum", "nesterov")


@dataclass(frozen=True)
class Outcomes:
    """The mean loss of each step [num_steps, num_trials], and the stacked weights by parameter."""

    losses: Tensor
    weights: dict[str, Tensor]


def train_together(configs: Sequence[RunConfig]) -> Outcomes:
    """Train trials that differ only in learning rate, momentum and the seed of their weights.

    All are trained on the batches of the first. Each ends with the weights that it has when it is
    trained alone on them, up to the rounding of batched products. Trials that differ in another
    option, have batch normalisation, or an optimizer without a batched form are a ValueError.
    """
    _check(configs)
    first = configs[0]
    trials = _Trials(configs)
    source = build_batches(first, 1, 0)
    losses = [trials.step(source.batch(step), step) for step in range(first.total_steps)]
    return Outcomes(torch.stack(losses), trials.weights)


class _Trials:
    """The stacked weights and velocities of trials, and the step that all take at once.

    The parameters of a trial are a row of one matrix, so that the update of all trials is one
    operation, with a learning rate and a momentum for each row.
    """

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        first = configs[0]
        models = [networks.build(config) for config in configs]
        self._rows = torch.stack([_flat(model) for model in models])
        self._gradient = torch.zeros_like(self._rows)
        self._velocity = torch.zeros_like(self._rows)
        self.weights = _by_name(self._rows, models[0])
        self._compute_gradient = _gradient_of(first, self.weights, self._gradient)
        steps = range(first.total_steps)
        self._all_rates = self._rows.new_tensor(
            [[learning_rate(config, step) for config in configs] for step in steps]
        ).unsqueeze(2)
        self._momenta = self._rows.new_tensor([[config.momentum] for config in configs])
        self._rates = torch.empty_like(self._momenta)
        self._losses = self._rows.new_empty(len(configs))
        self._optimizer = first.optimizer
        self._batch: Batch | None = None
        self._recorded: Recorded | None = None
        if build.in_graphs(first):
            self._recorded = Recorded(cuda_graph.CudaRecorder(), self._take_step, self._tensors)

    def step(self, batch: Batch, step: int) -> Tensor:
        """Take step number `step` with a batch; return the mean loss of each trial [num_trials]."""
        self._batch = batch
        self._rates.copy_(self._all_rates[step])
        if self._recorded is not None and isinstance(batch, StaticBatch):
            self._recorded()
        else:
            self._take_step()
        return self._losses.clone()

    @torch.no_grad()
    def _take_step(self) -> None:
        """Take torch's SGD step for every trial, each with its own learning rate and momentum."""
        assert self._batch is not None
        self._losses.copy_(self._compute_gradient(self._batch))
        direction = self._gradient
        if self._optimizer != "sgd":
            torch.addcmul(self._gradient, self._momenta, self._velocity, out=self._velocity)
            direction = self._velocity
        if self._optimizer == "nesterov":
            direction = self._gradient.addcmul_(self._momenta, self._velocity)
        self._rows.addcmul_(self._rates, direction, value=-1)

    def _tensors(self) -> Iterable[Tensor]:
        assert self._batch is not None
        return self._batch.images, self._batch.labels, self._rows


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _by_name(rows: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Return views [num_trials, *shape] of rows of parameters, by the names of a model."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    columns = zip(rows.split(sizes, dim=1), model.named_parameters(), strict=True)
    return {name: part.unflatten(1, parameter.shape) for part, (name, parameter) in columns}


def _gradient_of(
    config: RunConfig, weights: dict[str, Tensor], gradient: Tensor
) -> Callable[[Batch], Tensor]:
    """Return a function that writes the gradients of all trials, and returns their mean losses."""
    model = networks.build(config).to("meta")
    gradients = _by_name(gradient, model)
    if config.model == "mlp" and config.precision == "float32":
        return StackedPasses(list(weights.values()), list(gradients.values()))
    differentiate: Callable[..., tuple[dict[str, Tensor], Tensor]] = vmap(
        grad_and_value(_loss_of(model)), in_dims=(0, None, None)
    )

    def compute(batch: Batch) -> Tensor:
        values, losses = differentiate(weights, batch.images, batch.labels)
        for name, value in values.items():
            gradients[name].copy_(value)
        return losses

    return compute


class StackedPasses:
    """The gradients of many stacks of linear layers and ReLUs, by batched matrix products."""

    def __init__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Take weights [trials, out, in] and biases [trials, out] in turn, and their gradients."""
        self._weights = parameters[0::2]
        self._biases = [bias.unsqueeze(1) for bias in parameters[1::2]]
        self._weight_gradients = gradients[0::2]
        self._bias_gradients = gradients[1::2]

    def __call__(self, batch: Batch) -> Tensor:
        """Write the gradients of the mean loss of a batch; return that of each trial [trials]."""
        inputs = self._forward(batch.images)
        logits = inputs.pop()
        labels = batch.labels.expand(len(logits), -1).unsqueeze(2)
        log_probabilities = torch.log_softmax(logits, 2)
        losses = log_probabilities.gather(2, labels).mean((1, 2)).neg_()
        gradient = log_probabilities.exp_()  # softmax(logits), less 1 at the label
        gradient.scatter_add_(2, labels, gradient.new_full((), -1).expand(labels.shape))
        self._backward(inputs, gradient.div_(len(batch.labels)))
        return losses

    def _forward(self, images: Tensor) -> list[Tensor]:
        """Return the inputs of each layer [trials, n, in], and the logits [trials, n, 10]."""
        inputs = [images.flatten(1).expand(len(self._weights[0]), -1, -1)]
        for weight, bias in zip(self._weights, self._biases, strict=True):
            if len(inputs) > 1:
                inputs[-1].relu_()
            inputs.append(torch.baddbmm(bias, inputs[-1], weight.mT))
        return inputs

    def _backward(self, inputs: list[Tensor], gradient: Tensor) -> None:
        for layer in reversed(range(len(self._weights))):
            torch.bmm(gradient.mT, inputs[layer], out=self._weight_gradients[layer])
            torch.sum(gradient, 1, out=self._bias_gradients[layer])
            if layer:
                gradient = torch.bmm(gradient, self._weights[layer])
                gradient = torch.ops.aten.threshold_backward(gradient, inputs[layer], 0)


def _loss_of(skeleton: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(skeleton, weights, (images,)), labels)

    return loss


def _check(configs: Sequence[RunConfig]) -> None:
    first = configs[0]
    if first.optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer={first.optimizer!r} has no batched form; choose from"
            f" {', '.join(OPTIMIZERS)}"
        )
    if first.model == "resnet18":
        raise ValueError(
            "model='resnet18' has running statistics, not stacked with the weights; choose mlp"
            " or cnn"
        )
    for config in configs:
        if config.replace(lr=first.lr, momentum=first.momentum, seed=first.seed) != first:
            raise ValueError(
                "trials trained together may differ in lr, momentum and seed only; train the rest"
                " separately"
            )
