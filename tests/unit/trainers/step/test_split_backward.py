"""A backward pass in two parts gives the gradients of one, and computes each product once."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.memory import ActivationMeter
from nnpar_lib.trainers.step.split_backward import SplitBackward

CASES = {
    "mlp": {"hidden": (16, 12)},
    "cnn": {"model": "cnn", "channels": (4, 5), "hidden": (9,)},
    "im2col": {"model": "cnn", "channels": (4, 5), "hidden": (), "convolution": "im2col"},
    "channels last": {"model": "cnn", "hidden": (8,), "memory_format": "channels_last"},
    "resnet18": {"model": "resnet18", "stem": "imagenet", "width": 4, "convolution": "im2col"},
    "bf16": {"hidden": (16, 12), "precision": "bf16"},
}


def model_and_loss(parameters, needs_input_gradient):
    model = networks.build(RunConfig(**parameters))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 28, 28, generator=generator)
    images.requires_grad_(needs_input_gradient)
    loss = cross_entropy(model(images), torch.arange(6), reduction="sum")
    return model, images, loss


@pytest.mark.parametrize("needs_input_gradient", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_two_parts_give_the_gradients_of_one_pass(name, needs_input_gradient):
    model, images, loss = model_and_loss(CASES[name], needs_input_gradient)
    leaves = [*model.parameters(), *([images] if needs_input_gradient else [])]
    expected = torch.autograd.grad(loss, leaves, torch.tensor(0.5), retain_graph=True)
    split = SplitBackward(model)
    for_images, early, passes = split.first_part(images, loss, torch.tensor(0.5))
    indices, later = split.second_part(passes)
    assert sorted([*split.early, *indices]) == list(range(len(list(model.parameters()))))
    for index, gradient in zip([*split.early, *indices], [*early, *later], strict=True):
        torch.testing.assert_close(gradient, expected[index])
    if needs_input_gradient:
        torch.testing.assert_close(for_images, expected[-1])
    else:
        assert for_images is None
    assert passes == []


def flops(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["mlp", "cnn", "im2col"])
def test_no_product_is_computed_twice_or_in_the_wrong_part(name):
    model, images, loss = model_and_loss(CASES[name], True)
    leaves = [*model.parameters(), images]
    whole = flops(lambda: torch.autograd.grad(loss, leaves, retain_graph=True))
    for_images = flops(lambda: torch.autograd.grad(loss, images, retain_graph=True))
    split = SplitBackward(model)
    results = []
    first = flops(lambda: results.append(split.first_part(images, loss, torch.tensor(1.0))))
    second = flops(lambda: split.second_part(results[0][2]))
    assert first == for_images and first + second == whole


def test_the_second_part_frees_what_was_saved():
    meter = ActivationMeter(torch.zeros(1))
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda saved: saved.tensor):
        model, images, loss = model_and_loss(CASES["cnn"], True)
        saved_bytes = meter.bytes
        split = SplitBackward(model)
        _, _, passes = split.first_part(images, loss, torch.tensor(1.0))
        del loss
        assert 0 < meter.bytes <= saved_bytes
        split.second_part(passes)
        assert meter.bytes == 0
