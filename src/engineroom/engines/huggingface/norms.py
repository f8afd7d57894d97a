"""RMS norms on a CPU, in fewer operations than Transformers writes them in.

With few tokens an operation takes as long as it takes to call it, and a model has two to four norms a layer; what that
comes to was measured (``benchmarks/README.md``).
"""

from __future__ import annotations

import inspect
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from engineroom.engines.huggingface.library import Model, vector_norm


class LeanRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the last dimension, computed in fp32 (Zhang and Sennrich 2019, arXiv
    1910.07467). A norm takes this class in place of its own, and keeps its weight.
    """

    weight: nn.Parameter
    _eps: Tensor
    _share: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = hidden_states.dtype
        rows = hidden_states if dtype is torch.float32 else hidden_states.float()
        length = vector_norm(rows, 2, -1, True)
        scale = torch.addcmul(self._eps, length, length, value=self._share).rsqrt_()
        scaled = rows * scale
        return scaled.mul_(self.weight) if dtype is torch.float32 else scaled.to(dtype) * self.weight


def simplify(base: Model) -> None:
    """Makes lean what is an RMS norm: it has but a weight and an epsilon, and a trial shows that it computes one."""
    for module in cast("Any", base).modules():
        if (eps := _epsilon(module)) is not None and _is_rms_norm(module, eps):
            module._eps, module._share = torch.tensor(eps), 1 / module.weight.shape[0]
            module.__class__ = LeanRMSNorm


def _epsilon(module: nn.Module) -> float | None:
    """That of a module that may be an RMS norm."""
    if [name for name, _ in module.named_parameters()] != ["weight"] or next(
        module.children(), None
    ) is not None:
        return None
    if list(module.buffers()) or cast("Tensor", module.weight).dim() != 1:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # some take a gate too
        return None
    found = (getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon"))
    return next((eps for eps in found if isinstance(eps, float)), None)


def _is_rms_norm(module: nn.Module, eps: float) -> bool:
    """Numbers near epsilon tell whether that is what it is, and uneven ones whether a mean is taken off."""
    weight = cast("Tensor", module.weight)
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(2, weight.shape[0], generator=source) + 0.5
    rows[1] *= math.sqrt(eps)
    given = rows.to(weight.dtype)
    wide = given.double()
    exact = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    try:
        found = module(given)
    except Exception:  # it wants another shape: one norm for each head, say
        return False
    tolerance = 4 * torch.finfo(weight.dtype).eps
    return found.dtype == weight.dtype and torch.allclose(found.double(), exact, rtol=tolerance, atol=1e-12)
