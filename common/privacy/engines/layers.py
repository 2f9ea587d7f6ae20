"""Layers whose backward pass gives every sample its own gradient instead of one sum over the batch.

Each is a function of torch that a layer ends in, with a backward pass that fills `Rows`. That takes about the
time of the sum it replaces (book-keeping, Bu et al. 2023, arXiv:2210.00038). The first dimension of an input
is that of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from common.privacy.engines.rows import Rows

Layer = Callable[..., Tensor]
"""As the function it stands for, with the `Rows` in front."""

_convolution_backward = torch.ops.aten.convolution_backward.default
_group_norm_backward = torch.ops.aten.native_group_norm_backward.default
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.rows, ctx.bias = rows, bias
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight) = ctx.rows, ctx.saved_tensors
        outputs = gradient.reshape(rows.count, -1, gradient.shape[-1])
        if rows.has(weight):
            inputs = x.reshape(rows.count, -1, x.shape[-1])
            rows.add_product(weight, outputs.transpose(1, 2), inputs)
        if rows.has(ctx.bias):
            rows.add(ctx.bias, outputs.sum(1))
        return None, gradient @ weight if ctx.needs_input_grad[1] else None, None, None


def linear(rows: Rows, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of (B, ..., inputs)."""
    return _applied(_Linear, rows, input, weight, bias)


class _Pointwise(Function):
    """A convolution that looks at one place at a time is a matrix product."""

    @staticmethod
    def forward(ctx: Any, rows: Rows, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.rows, ctx.bias = rows, bias
        ctx.save_for_backward(x, weight)
        mixed = torch.bmm(weight.flatten(1).expand(len(x), -1, -1), x.flatten(2))
        if bias is not None:
            mixed += bias.unsqueeze(1)
        return mixed.view(*mixed.shape[:2], *x.shape[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight) = ctx.rows, ctx.saved_tensors
        outputs = gradient.flatten(2)
        if rows.has(weight):
            rows.add_product(weight, outputs, x.flatten(2).transpose(1, 2))
        if rows.has(ctx.bias):
            rows.add(ctx.bias, outputs.sum(2))
        before = None
        if ctx.needs_input_grad[1]:
            before = torch.bmm(weight.flatten(1).t().expand(len(x), -1, -1), outputs).view(x.shape)
        return None, before, None, None


class _Convolution(Function):
    """Of one or two dimensions, grouped, strided, dilated and padded as may be."""

    @staticmethod
    def forward(
        ctx: Any, rows: Rows, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]
    ) -> Tensor:
        ctx.rows, ctx.bias, ctx.settings = rows, bias, settings
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight) = ctx.rows, ctx.saved_tensors
        if rows.has(weight):
            beside = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            by_sample = _side_by_side if beside and ctx.settings[-1] > 1 else _one_by_one
            rows.add(weight, by_sample(gradient, x, weight, ctx.settings))
        if rows.has(ctx.bias):
            rows.add(ctx.bias, gradient.flatten(2).sum(2))
        before = None
        if ctx.needs_input_grad[1]:
            before = _convolution_backward(gradient, x, weight, None, *ctx.settings, (True, False, False))[0]
        return None, before, None, None, None


def _one_by_one(gradient: Tensor, x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> Tensor:
    """Gradients (B, ...) of `weight`: torch's sum over a batch of one is that sample's. What a sample needs
    stays in the processor's cache meanwhile, so that many calls cost little more than one."""
    samples = zip(torch.split(gradient, 1), torch.split(x, 1), strict=True)
    only_weight = (weight, None, *settings, (False, True, False))
    return torch.stack([_convolution_backward(*one, *only_weight)[1] for one in samples])


def _side_by_side(gradient: Tensor, x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> Tensor:
    """The same of images whose channels lie side by side: those of all samples become the groups of one
    sample, which is faster where a sample by itself is small."""
    samples = len(x)
    wide = (
        value.permute(2, 3, 0, 1).reshape(1, *value.shape[2:], -1).permute(0, 3, 1, 2)
        for value in (gradient, x)
    )
    weights = weight.expand(samples, *weight.shape).flatten(0, 1)
    wide_settings = (*settings[:-1], samples * settings[-1])
    sums: Tensor = _convolution_backward(*wide, weights, None, *wide_settings, (False, True, False))[1]
    return sums


def convolution(
    rows: Rows,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv1d` of (B, channels, T) and `F.conv2d` of (B, channels, H, W)."""
    dimensions = weight.dim() - 2
    steps, spread = _each(stride, dimensions), _each(dilation, dimensions)
    if isinstance(padding, str):
        sizes = [gap * (size - 1) for gap, size in zip(spread, weight.shape[2:], strict=True)]
        sizes = sizes if padding == "same" else [0] * dimensions
        # Where the two sides differ, torch too pads the input first.
        if any(size % 2 for size in sizes):
            sides = [side for size in reversed(sizes) for side in (size // 2, size - size // 2)]
            input, sizes = F.pad(input, sides), [0] * dimensions
        margins = [size // 2 for size in sizes]
    else:
        margins = _each(padding, dimensions)
    if weight[0, 0].numel() == 1 and groups == 1 and math.prod(steps) == 1 and not any(margins):
        return _applied(_Pointwise, rows, input, weight, bias)
    settings = (steps, margins, spread, False, [0] * dimensions, groups)
    return _applied(_Convolution, rows, input, weight, bias, settings)


class _GroupNorm(Function):
    """A group is within a sample, so the groups of all samples are those of one sample with more channels,
    whose summed gradients are the samples' own."""

    @staticmethod
    def forward(
        ctx: Any, rows: Rows, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
    ) -> Tensor:
        samples, channels, x = *x.shape[:2], x.contiguous()
        normed, mean, spread = torch.native_group_norm(
            x, weight, bias, samples, channels, x[0, 0].numel(), groups, eps
        )
        ctx.rows, ctx.bias, ctx.groups = rows, bias, groups
        ctx.save_for_backward(x, weight, mean, spread)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight, mean, spread) = ctx.rows, ctx.saved_tensors
        samples, channels, places = x.shape[0], x.shape[1], x[0, 0].numel()
        before, scale, shift = _group_norm_backward(
            gradient.contiguous().view(1, -1, places),
            x.view(1, -1, places),
            mean.view(1, -1),
            spread.view(1, -1),
            None if weight is None else weight.repeat(samples),
            1,
            samples * channels,
            places,
            samples * ctx.groups,
            (ctx.needs_input_grad[1], rows.has(weight), rows.has(ctx.bias)),
        )
        rows.add(weight, scale)
        rows.add(ctx.bias, shift)
        return None, before if before is None else before.view(x.shape), None, None, None, None


def group_norm(
    rows: Rows,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.group_norm` of (B, channels, ...)."""
    return _applied(_GroupNorm, rows, input, weight, bias, num_groups, eps)


class _LayerNorm(Function):
    """With xhat = (x - mean) / deviation, a sample's gradients are the sums of g * xhat and of g over all but
    the dimensions that are normed."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Rows,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: list[int],
        eps: float,
    ) -> Tensor:
        normed, mean, rate = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.rows, ctx.shape = rows, shape
        ctx.save_for_backward(x, weight, bias, mean, rate)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight, bias, mean, rate) = ctx.rows, ctx.saved_tensors
        before = None
        if ctx.needs_input_grad[1]:
            only_before = (True, False, False)
            before = _layer_norm_backward(gradient, x, ctx.shape, mean, rate, weight, bias, only_before)[0]
        flat = (rows.count, -1, math.prod(ctx.shape))
        rows.add(bias, gradient.reshape(flat).sum(1))
        if rows.has(weight):
            rows.add(weight, (x - mean).mul_(rate).mul_(gradient).reshape(flat).sum(1))
        return None, before, None, None, None, None


def layer_norm(
    rows: Rows,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm` of (B, ..., *normalized_shape)."""
    return _applied(_LayerNorm, rows, input, weight, bias, list(normalized_shape), eps)


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.rows, ctx.padding = rows, padding
        ctx.save_for_backward(x, weight)
        return F.embedding(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight) = ctx.rows, ctx.saved_tensors
        codes = x.reshape(rows.count, -1)
        each = gradient.reshape(*codes.shape, -1) * (codes != ctx.padding).unsqueeze(2)
        sums = each.new_zeros(rows.count, *weight.shape)
        samples = torch.arange(rows.count).unsqueeze(1).expand_as(codes)
        rows.add(weight, sums.index_put_((samples, codes), each, accumulate=True))
        return None, None, None, None


def embedding(
    rows: Rows,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding` of codes (B, ...); one that changes its weights or counts codes in a batch is left
    alone."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    return _applied(_Embedding, rows, input, weight, padding)


class _PReLU(Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, x: Tensor, weight: Tensor) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(x, weight)
        return F.prelu(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, (x, weight) = ctx.rows, ctx.saved_tensors
        each = (gradient * x.clamp(max=0)).reshape(rows.count, len(weight), -1)
        rows.add(weight, each.sum(2))
        slopes = weight.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else weight
        return None, torch.where(x > 0, gradient, gradient * slopes), None


def prelu(rows: Rows, input: Tensor, weight: Tensor) -> Tensor:
    """`F.prelu` of (B, channels, ...)."""
    return _applied(_PReLU, rows, input, weight)


LAYERS: Mapping[Callable[..., Any], Layer] = {
    F.linear: linear,
    F.conv1d: convolution,
    F.conv2d: convolution,
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.embedding: embedding,
    F.prelu: prelu,
}
"""By the function of torch that each stands for."""


def _applied(function: type[Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _each(value: int | Sequence[int], dimensions: int) -> list[int]:
    """One number for each dimension, as torch's convolutions take a single one for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values
