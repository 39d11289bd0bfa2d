"""BatchNorm over the images of all processes, so that their number does not change what a student learns.

On GPUs by torch's SyncBatchNorm, through timm's conversion, which keeps the activations in timm's own BatchNorm. torch
refuses tensors on a CPU; there a module of ours computes the same, with means over all images and x^ the normalised x:

    forward   y = weight x^ + bias,  x^ = (x - mean) / sqrt(var + eps)
    backward  dx = weight / sqrt(var + eps) (dy - mean(dy) - x^ mean(dy x^))
"""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm below a module, in place; parameters, buffers and their names stay."""
    if device.type == "cuda":
        convert_sync_batchnorm(network)
        return
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            setattr(network, name, SyncBatchNorm(child))
        else:
            synchronise(child, device)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over all processes, on a CPU, in place of another BatchNorm whose tensors it takes."""

    def __init__(self, own: _BatchNorm) -> None:
        super().__init__(own.num_features, own.eps, own.momentum, own.affine, own.track_running_stats)
        self.load_state_dict(own.state_dict())
        self.weight, self.bias = own.weight, own.bias
        for name, part in own.named_children():  # timm's BatchNormAct2d: drop, then act
            self.add_module(name, part)
        self.train(own.training)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same shape."""
        x = self._over_all(x) if self.training else super().forward(x)
        for part in self.children():
            x = part(x)
        return x

    def _over_all(self, x: torch.Tensor) -> torch.Tensor:
        dims = [dim for dim in range(x.ndim) if dim != 1]
        with torch.no_grad():
            moments = torch.var_mean(x.float(), dims, correction=0)
            (var, mean), count = (moment.double() for moment in moments), x.numel() // x.shape[1]
            sums = torch.cat([mean * count, (var + mean.square()) * count, mean.new_tensor([count])])
            dist.all_reduce(sums)  # in float64, in which E[xx] - mm does not cancel
            total = float(sums[-1])
            mean, squares = (sums[:-1] / total).chunk(2)
            var = (squares - mean.square()).clamp_min(0)
            if self.track_running_stats:
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), share)
                self.running_var.lerp_((var * total / (total - 1)).to(self.running_var), share)
        weight = torch.ones_like(mean, dtype=torch.float32) if self.weight is None else self.weight
        bias = torch.zeros_like(weight) if self.bias is None else self.bias
        return _Normalise.apply(x, weight, bias, mean.float(), (var + self.eps).rsqrt().float(), total)


class _Normalise(torch.autograd.Function):
    """Normalise by given moments of all images; the gradient goes through the moments too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *moments: Any) -> torch.Tensor:
        mean, inverse, ctx.total = moments
        ctx.save_for_backward(x, weight, mean, inverse)
        scale = weight * inverse
        return torch.addcmul(_wide(bias - mean * scale, x), x.float(), _wide(scale, x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        dims = [dim for dim in range(x.ndim) if dim != 1]
        dy, normal = dy.float(), (x.float() - _wide(mean, x)).mul_(_wide(inverse, x))
        own = torch.stack([dy.sum(dims, dtype=torch.float64), (dy * normal).sum(dims, dtype=torch.float64)])
        means = own.clone()
        dist.all_reduce(means)
        shift, slope = (means / ctx.total).float()
        dx = (dy - _wide(shift, x) - normal.mul_(_wide(slope, x))).mul_(_wide(weight * inverse, x))
        bias_gradient, weight_gradient = own.float()
        return dx.to(x.dtype), weight_gradient, bias_gradient, None, None, None


def _wide(channels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Reshape (C,) to be broadcast along the channels of x."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))
