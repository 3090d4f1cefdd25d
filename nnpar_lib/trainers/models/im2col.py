"""Convolutions as matrix products over copied windows (im2col), which suit small images with many
channels.

A row holds the inputs of one output, tap by tap with the channels of a tap side by side, so that a
single product gives all outputs (Chellapilla et al. 2006). Taps that only meet the padding are left
out: on a single pixel, eight of 3 x 3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

MOST_PIXELS = 64  # of an output computed so; the windows of a larger one are too much to copy


class Convolution(nn.Conv2d):
    """torch's layer with square kernels; `way` is one of `config.computing.CONVOLUTIONS`."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        size: int,
        *,
        way: str,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(num_in, num_out, size, stride, padding, bias=bias, dtype=torch.float32)
        self.function = partial(convolve, stride=stride, padding=padding, way=way)

    def forward(self, images: Tensor) -> Tensor:
        """Return [n, num_out, height, width] of images [n, num_in, height, width]."""
        return self.function(images, self.weight, self.bias)


def convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int,
    padding: int,
    way: str,
) -> Tensor:
    """Return the convolution of square images with square kernels."""
    num_pixels = _num_outputs(images.shape[2], weight.shape[2], stride, padding) ** 2
    if way == "torch" or num_pixels > MOST_PIXELS:
        return functional.conv2d(images, weight, bias, stride, padding)
    output: Tensor = _Im2col.apply(images, weight, stride, padding)  # type: ignore[no-untyped-call]
    return output if bias is None else output + bias.to(output).view(-1, 1, 1)


class _Im2col(torch.autograd.Function):
    """Both passes on images [n, height, width, channels] and kernels [out, taps, taps, in]."""

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        height = images.shape[2]
        size = weight.shape[2]
        num_outputs = _num_outputs(height, size, stride, padding)
        used = slice(max(0, padding - (num_outputs - 1) * stride), min(size, height + padding))
        pixels = images.detach().permute(0, 2, 3, 1).to(_product_dtype(images))
        kernel = weight.detach().permute(0, 2, 3, 1)[:, used, used].to(pixels.dtype).contiguous()
        before = padding - used.start
        after = (num_outputs - 1) * stride + kernel.shape[1] - height - before
        context.save_for_backward(pixels, kernel)
        context.stride = stride
        context.margins = (before, after)
        context.used = used
        context.weight_like = torch.empty_like(weight, device="meta")
        context.images_dtype = images.dtype
        return _product(pixels, kernel, stride, before, after).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, kernel = context.saved_tensors
        before, after = context.margins
        gradient = gradient.permute(0, 2, 3, 1)
        for_weight = for_images = None
        if context.needs_input_grad[1]:
            columns = _columns(pixels, kernel.shape[1], context.stride, before, after)
            product = gradient.reshape(-1, len(kernel)).t() @ columns
            for_weight = _uncut(
                product.view(kernel.shape).permute(0, 3, 1, 2), context.weight_like, context.used
            )
        if context.needs_input_grad[0]:
            for_images = _for_pixels(gradient, kernel, context.stride, pixels.shape[1], before)
            for_images = for_images.permute(0, 3, 1, 2).to(context.images_dtype)
        return for_images, for_weight, None, None


def _for_pixels(gradient: Tensor, kernel: Tensor, stride: int, height: int, before: int) -> Tensor:
    """Return the gradient of the pixels.

    It is the gradient of the outputs, spread, and convolved with the mirrored kernel; see Dumoulin
    and Visin 2016 for the arithmetic of its margins.
    """
    spread = _spread(gradient, stride)
    margin = kernel.shape[1] - 1 - before
    mirrored = kernel.flip(1, 2).permute(3, 1, 2, 0)
    return _product(spread, mirrored, 1, margin, height + before - spread.shape[1])


def _spread(outputs: Tensor, stride: int) -> Tensor:
    """Return outputs [n, h, w, c] with stride - 1 zeros between neighbours."""
    if stride == 1:
        return outputs
    num_images, height, width, num_channels = outputs.shape
    spread = outputs.new_zeros(
        num_images, (height - 1) * stride + 1, (width - 1) * stride + 1, num_channels
    )
    spread[:, ::stride, ::stride] = outputs
    return spread


def _product(pixels: Tensor, kernel: Tensor, stride: int, before: int, after: int) -> Tensor:
    """Return the convolution of pixels [n, h, w, in], padded with zeros, and a kernel
    [out, taps, taps, in]."""
    num_outputs = _num_outputs(pixels.shape[1] + before + after, kernel.shape[1], stride, 0)
    columns = _columns(pixels, kernel.shape[1], stride, before, after)
    matrix = kernel.permute(1, 2, 3, 0).reshape(columns.shape[1], len(kernel))
    return (columns @ matrix).view(len(pixels), num_outputs, num_outputs, len(kernel))


def _columns(pixels: Tensor, size: int, stride: int, before: int, after: int) -> Tensor:
    """Return the windows of pixels [n, h, w, c], one row [taps x taps x c] for each output."""
    if before or after:
        pixels = functional.pad(pixels, (0, 0, before, after, before, after))
    windows = pixels.unfold(1, size, stride).unfold(2, size, stride).permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(windows.shape[:3].numel(), windows.shape[3:].numel())


def _uncut(product: Tensor, weight_like: Tensor, used: slice) -> Tensor:
    """Return the gradient of all taps, given that of the used ones."""
    if product.shape == weight_like.shape:
        return product.to(weight_like.dtype)
    whole = torch.zeros_like(weight_like, device=product.device)
    whole[:, :, used, used] = product
    return whole


def _num_outputs(height: int, size: int, stride: int, padding: int) -> int:
    return (height + 2 * padding - size) // stride + 1


def _product_dtype(images: Tensor) -> torch.dtype:
    device = images.device.type
    is_cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_cast else images.dtype
