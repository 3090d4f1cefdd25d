"""A backward pass in two parts: the gradients of inputs first, those of weights later.

Autograd's graph of a pass is walked once to find the nodes that compute with weights. The first
part stops the gradients that enter these nodes, and keeps them; the second part starts at them, one
node after the other. So the products of a layer are computed once, and what lies between layers is
not computed again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from nnpar_lib.trainers.models.batch_norm import BatchNorm


@dataclass(frozen=True, slots=True)
class WeightPass:
    """What the second part needs for a layer: its node, the gradient that enters it, and the
    indices of its parameters."""

    edge: GradientEdge
    gradient: Tensor
    indices: Sequence[int]


class SplitBackward:
    """The two parts of the backward pass of a module, for one micro-batch after the other.

    The parameters of normalisations belong to the first part: their kernel computes the gradients
    of inputs and parameters together.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())
        normalisations = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
        early = {id(parameter) for layer in normalisations for parameter in layer.parameters()}
        self._index_of = {
            id(parameter): index
            for index, parameter in enumerate(self._parameters)
            if id(parameter) not in early
        }
        self.early = [i for i, item in enumerate(self._parameters) if id(item) in early]

    def first_part(
        self, inputs: Tensor, output: Tensor, gradient: Tensor
    ) -> tuple[Tensor | None, Sequence[Tensor], list[WeightPass]]:
        """Return the gradient of the inputs, if they need one, those of the parameters `early`,
        and what the second part needs."""
        assert output.grad_fn is not None
        layers = weight_nodes(output.grad_fn, self._index_of)
        edges = [GradientEdge(node, 0) for node in layers]
        leaves: list[Any] = [*edges, *(self._parameters[index] for index in self.early)]
        if inputs.requires_grad:
            leaves.append(inputs)
        gradients = torch.autograd.grad(output, leaves, gradient, retain_graph=True)
        passes = [
            WeightPass(edge, entering, indices)
            for edge, entering, indices in zip(edges, gradients, layers.values(), strict=False)
        ]
        of_early = gradients[len(edges) : len(edges) + len(self.early)]
        return (gradients[-1] if inputs.requires_grad else None), of_early, passes

    def second_part(self, passes: list[WeightPass]) -> tuple[list[int], list[Tensor]]:
        """Return the indices of the remaining parameters, and their gradients; `passes` is emptied,
        and what each layer saved is freed."""
        all_indices: list[int] = []
        gradients: list[Tensor] = []
        while passes:
            layer = passes.pop(0)
            parameters = [self._parameters[index] for index in layer.indices]
            gradients += torch.autograd.grad((layer.edge,), parameters, (layer.gradient,))
            all_indices += layer.indices
        return all_indices, gradients


def weight_nodes(root: Node, index_of: dict[int, int]) -> dict[Node, list[int]]:
    """Return the nodes of a graph that compute with parameters, from the output on, each with the
    indices of its parameters.

    `index_of` maps the `id` of a parameter to its index. Between a parameter and the node that
    computes with it there may be nodes of one input, which cast or transpose it.
    """
    nodes: dict[Node, list[int]] = {}
    seen = {root}
    waiting = [(root, root)]
    while waiting:
        node, layer = waiting.pop()
        if len(node.next_functions) > 1:
            layer = node
        for source, _ in node.next_functions:
            if source is None or source in seen:
                continue
            seen.add(source)
            waiting.append((source, layer))
            index = index_of.get(id(getattr(source, "variable", None)))
            if index is not None:
                nodes.setdefault(layer, []).append(index)
    return nodes


def kept_bytes(passes: Collection[WeightPass]) -> int:
    """Return the bytes of the gradients that wait for the second part."""
    return sum(layer.gradient.nbytes for layer in passes)
