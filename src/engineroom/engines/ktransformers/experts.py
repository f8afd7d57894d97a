"""Finding the experts of a model by its structure, and the module that takes their place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.ktransformers.kernel import Kernel, Shape, Weights
from engineroom.engines.ktransformers.methods import Method
from engineroom.errors import ModelLoadError

_COUNTS = ("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k")
"""What configs call the number of experts that a token goes through."""

_ROWS = 40
"""Of the trial: more than ten, above which some kernels take another way."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where experts are in a model.

    Attributes:
        path: of the module, such as ``model.layers.3.mlp.experts``.
        layer: the layer's number.
        module: Transformers' own.
    """

    path: str
    layer: int
    module: nn.Module
    shape: Shape


def find_experts(model: nn.Module) -> list[Place]:
    """Every module that holds a layer's experts as Transformers 5 does: stacked in ``gate_up_proj`` and ``down_proj``.

    Raises:
        ModelLoadError: there is none, or they compute what kt-kernel does not.
    """
    named = cast("list[tuple[str, nn.Module]]", list(cast("Any", model).named_modules()))
    places = [_place(path, module) for path, module in named if _holds_experts(module)]
    if not places:
        raise ModelLoadError(
            "the model has no experts",
            why="kt-kernel computes the experts of sparse models, and no layer of this one has any that Transformers"
            " keeps in one module",
            fix="use infer_backend=huggingface for a dense model",
        )
    return places


def _holds_experts(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return all(name in own and own[name].ndim == 3 for name in ("gate_up_proj", "down_proj"))


def _place(path: str, module: nn.Module) -> Place:
    whole = cast("Any", module)
    unlike = [
        reason
        for name, wanted, reason in (
            ("has_gate", True, "they have no gate"),
            ("has_bias", False, "they add biases"),
            ("is_transposed", False, "their matrices are transposed"),
            ("is_concatenated", True, "their gates are interleaved"),
        )
        if getattr(whole, name, None) is not wanted
    ]
    if unlike or not _is_silu_gate(module):
        raise ModelLoadError(
            f"kt-kernel can't compute this model's experts ({type(module).__name__})",
            why="; ".join(unlike) or "it knows one gate, silu(gate) · up, and theirs is another",
            fix="use infer_backend=huggingface",
        )
    experts, hidden, inner = whole.down_proj.shape
    config = whole.config
    counts = (getattr(config, name, None) for name in _COUNTS)
    per_token = next((count for count in counts if isinstance(count, int)), None)
    if per_token is None:
        raise ModelLoadError(
            "the model does not say how many experts a token goes through",
            why=f"its config has none of {', '.join(_COUNTS)}",
            fix="use infer_backend=huggingface",
        )
    numbers = re.findall(r"\d+", path)
    return Place(path, int(numbers[-1]) if numbers else 0, module, Shape(experts, per_token, hidden, inner))


def _is_silu_gate(module: nn.Module) -> bool:
    """Tries the gate on numbers large enough to meet a limit, if it has one."""
    probe = torch.linspace(-200.0, 200.0, 64, device="cpu", dtype=torch.float32).view(1, 64)
    probe = torch.cat([probe, probe.flip(1)], 1)
    gate, up = probe.chunk(2, -1)
    try:
        found = cast("Any", module)._apply_gate(probe)
    except Exception:  # an attribute that is made later, or a gate of other arguments
        return False
    return bool(torch.equal(found, nn.functional.silu(gate) * up))


def check_spares_experts(folder: AdapterFolder) -> None:
    """
    Raises:
        ModelLoadError: the adapter changes experts, whose weights are kt-kernel's alone.
    """
    changed = next((tensor.name for tensor in folder.tensors if ".experts." in tensor.name), None)
    if changed is not None:
        raise ModelLoadError(
            f"the adapter {str(folder.path)!r} changes experts",
            why=f"kt-kernel computes them without adapters, and it has {changed}",
            fix="save the model with the adapter merged into it, or use infer_backend=huggingface",
        )


class KTExperts(nn.Module):
    """Takes the place of Transformers' experts.

    While the checkpoint is loaded it has the same two parameters, without memory. Transformers reads, renames and stacks
    the weights for them; as soon as both are there, a kernel is made of them and they are let go. So no more than one
    layer's experts are in memory twice, at one time.

    Args:
        make: makes the kernel of a layer's weights.
        dtype: in what the weights are to come.
    """

    def __init__(self, place: Place, dtype: torch.dtype, make: Callable[[Weights], Kernel]) -> None:
        super().__init__()
        shape = place.shape
        self._place, self._make = place, make
        self._arrived: dict[str, Tensor] = {}
        self.kernel: Kernel | None = None
        for name, size in (
            ("gate_up_proj", (shape.experts, 2 * shape.inner, shape.hidden)),
            ("down_proj", (shape.experts, shape.hidden, shape.inner)),
        ):
            empty = torch.empty(size, dtype=dtype, device="meta")
            super().register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Called where Transformers sets a weight that it has read."""
        if param is None or not getattr(param, "_is_hf_initialized", False):
            # not read from the checkpoint: a placeholder of ours, or one for weights that are missing
            super().register_parameter(name, param)
            return
        self._arrived[name] = param.data
        if len(self._arrived) == 2:
            self.take_kernel(self._kernel_of(**self._arrived))

    def take_kernel(self, kernel: Kernel) -> None:
        """Computes with this one."""
        self.kernel = kernel
        self.await_nothing()

    def await_nothing(self) -> None:
        """Transformers reads no weights for it, or no more."""
        self._arrived = {}
        self._parameters.clear()

    def _kernel_of(self, gate_up_proj: Tensor, down_proj: Tensor) -> Kernel:
        gate, up = gate_up_proj.chunk(2, 1)
        return self._make(Weights(gate, up, down_proj))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Like the module that it replaces: [tokens, hidden], [tokens, per_token] twice → [tokens, hidden]."""
        kernel = self.kernel
        if kernel is None:
            raise RuntimeError(f"{self._place.path} has no weights")
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        out = kernel(
            rows.to("cpu", kernel.dtype).contiguous(),
            top_k_index.to("cpu", torch.int64).contiguous(),
            top_k_weights.to("cpu", torch.float32).contiguous(),
        )
        return out.to(hidden_states.device, hidden_states.dtype).view_as(hidden_states)


def check_likeness(place: Place, kernel: Kernel, weights: Weights, method: Method) -> None:
    """Compares the kernel with the module that it replaces, on a few random tokens.

    Raises:
        ModelLoadError: they compute different things.
    """
    shape = place.shape
    noise = torch.Generator().manual_seed(0)
    rows = torch.randn(_ROWS, shape.hidden, generator=noise)
    order = torch.rand(_ROWS, shape.experts, generator=noise).argsort(1)
    experts = order[:, : shape.per_token].contiguous()
    shares = torch.rand(_ROWS, shape.per_token, generator=noise)
    found = kernel(rows.to(kernel.dtype), experts, shares).float()
    named = {"gate_up_proj": torch.cat([weights.gate, weights.up], 1), "down_proj": weights.down}
    dtype = weights.down.dtype
    with torch.no_grad():
        wanted = functional_call(place.module, named, (rows.to(dtype), experts, shares.to(dtype))).float()
    likeness = float(nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), 0))
    if not likeness >= method.likeness:
        raise ModelLoadError(
            f"kt-kernel computes something else than {place.path}",
            why=f"with kt_method={method.name} the cosine of the two is {likeness:.4f}",
            fix="use another kt_method, or infer_backend=huggingface",
        )
