"""Norms of per-patient gradients where opacus' own rules need too much memory: many tokens, and convolutions of frames.

Opacus' rule for a linear map builds two Gram matrices of T x T tokens a row: 20 GB for one frame-by-space map of a
published size. The gradient itself, d x p numbers a row, is the smaller then. Bu et al. 2022 (Scalable and Efficient
Training of Large Convolutional Neural Networks with Differential Privacy, section 4) take the cheaper of the two, layer
by layer: mixed ghost clipping. Both are exact. Importing this module registers the rules with opacus.
"""

from __future__ import annotations

import torch
from opacus.grad_sample import register_norm_sampler
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from fl_shared.models.frames import FrameConv

Norms = dict[Tensor, Tensor]


@register_norm_sampler(nn.Linear)
def linear_norms(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> Norms:
    """Norms (B,) of the gradients of weight and bias; activations (B, …, d), backprops (B, …, p)."""
    rows = len(backprops)
    g = backprops.reshape(rows, -1, backprops.shape[-1])
    a = activations[0].to(g.dtype).reshape(rows, -1, activations[0].shape[-1])
    norms: Norms = {}
    if layer.weight.requires_grad:
        tokens = g.shape[1]
        gram = 2 * tokens * tokens < layer.weight.numel()
        norms[layer.weight] = _gram_norms(a, g) if gram else _norms(g.transpose(1, 2) @ a)
    return norms | _bias_norms(layer.bias, g)


@register_norm_sampler(FrameConv)
def frame_conv_norms(layer: FrameConv, activations: list[Tensor], backprops: Tensor) -> Norms:
    """Norms (B,) of the gradients of weight and bias; activations (B, F, H, W, C), backprops (B, F, H', W', C').

    A row's frames are folded, so that its gradient is one ordinary weight gradient, a row at a time: no unfolded input
    (k x k times as large), and of a depthwise convolution no products between channels.
    """
    norms: Norms = {}
    if layer.weight.requires_grad:
        a, g = (x.to(backprops.dtype).permute(0, 1, 4, 2, 3) for x in (activations[0], backprops))
        norms[layer.weight] = torch.stack([_weight_gradient(layer, *row).norm() for row in zip(a, g, strict=True)])
    return norms | _bias_norms(layer.bias, backprops.flatten(1, -2))


def _weight_gradient(layer: FrameConv, activations: Tensor, backprops: Tensor) -> Tensor:
    how = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    gradient: Tensor = conv2d_weight(activations, layer.weight.shape, backprops, **how)  # type: ignore[no-untyped-call]
    return gradient


def _gram_norms(a: Tensor, g: Tensor) -> Tensor:
    """|g^T a| of a (B, T, d) and g (B, T, p) without that product: |g^T a|^2 is the sum of (a a^T) * (g g^T)."""
    squares = ((a @ a.transpose(1, 2)) * (g @ g.transpose(1, 2))).sum((1, 2))
    return squares.clamp(min=0).sqrt()


def _bias_norms(bias: Tensor | None, g: Tensor) -> Norms:
    return {bias: _norms(g.sum(1))} if bias is not None and bias.requires_grad else {}


def _norms(gradients: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    return norms
