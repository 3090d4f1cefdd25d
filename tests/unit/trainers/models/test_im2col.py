"""A convolution computed as a matrix product over windows is torch's, forward and backward, in any
geometry."""

import itertools

import pytest
import torch
from torch.autograd import grad
from torch.utils.flop_counter import FlopCounterMode

from nnpar_lib.trainers.models.im2col import Convolution
from nnpar_lib.trainers.models.networks import Flatten

HEIGHTS = (1, 2, 3, 4, 7)
SIZES = (1, 2, 3, 7)
STRIDES = (1, 2, 3)
PADDINGS = (0, 1, 3)
GEOMETRIES = [
    (height, size, stride, padding)
    for height, size, stride, padding in itertools.product(HEIGHTS, SIZES, STRIDES, PADDINGS)
    if padding < size <= height + 2 * padding
]


def pair(
    height,
    size,
    stride,
    padding,
    dtype=torch.float64,
    num_images=3,
    memory_format=torch.contiguous_format,
):
    """Return pairs of torch's results and ours: outputs, gradients of images, weights, biases."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, 2, height, height, dtype=dtype, generator=generator)
    images = images.to(memory_format=memory_format).requires_grad_()
    results = []
    for way in ("torch", "im2col"):
        layer = Convolution(2, 5, size, way=way, stride=stride, padding=padding).to(dtype)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        outputs = layer(images)
        weights = torch.arange(outputs.numel(), dtype=outputs.dtype).sin().view_as(outputs)
        results.append([outputs.detach(), *grad(outputs, [images, *layer.parameters()], weights)])
    return zip(*results, strict=True)


@pytest.mark.parametrize(("height", "size", "stride", "padding"), GEOMETRIES)
def test_outputs_and_gradients_are_those_of_torch(height, size, stride, padding):
    for expected, computed in pair(height, size, stride, padding):
        assert computed.shape == expected.shape and computed.dtype == expected.dtype
        assert torch.allclose(computed, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_no_images_have_no_outputs_and_no_gradient(memory_format):
    for expected, computed in pair(4, 3, 2, 1, num_images=0, memory_format=memory_format):
        assert torch.equal(computed, expected)


def test_products_are_those_of_autocast_and_gradients_in_the_type_of_the_weights():
    with torch.autocast("cpu", torch.bfloat16):
        outputs, images, weights, biases = pair(2, 3, 1, 1, dtype=torch.float32)
    assert outputs[1].dtype == torch.bfloat16
    for expected, computed in (images, weights, biases):
        assert computed.dtype == torch.float32
        assert torch.allclose(
            computed, expected, rtol=0.02, atol=0.02 * float(expected.abs().max())
        )


@pytest.mark.parametrize(("height", "stride", "num_taps"), [(1, 1, 1), (2, 2, 4), (3, 1, 9)])
def test_taps_that_only_meet_the_border_are_not_multiplied(height, stride, num_taps):
    layer = Convolution(2, 5, 3, way="im2col", stride=stride, padding=1)
    with FlopCounterMode(display=False) as flops:
        outputs = layer(torch.ones(7, 2, height, height))
    assert flops.get_total_flops() == 2 * outputs.numel() * 2 * num_taps


def test_large_images_are_left_to_torch():
    layer = Convolution(1, 1, 3, way="im2col", padding=1)
    functions = [
        type(layer(torch.ones(1, 1, height, height)).grad_fn).__name__ for height in (8, 9)
    ]
    assert functions[1] == "ConvolutionBackward0" != functions[0]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_behind_a_flattening_lies_as_the_images_do(memory_format):
    images = torch.randn(3, 2, 4, 4).to(memory_format=memory_format).requires_grad_()
    seen = []
    scaled = images * 2
    scaled.register_hook(seen.append)
    weights = torch.arange(96.0).view(3, 32)
    (gradient,) = grad(Flatten()(scaled), images, weights)
    assert torch.equal(gradient, 2 * weights.view(3, 2, 4, 4))
    assert seen[0].is_contiguous(memory_format=memory_format)
