"""Rotary position embeddings, scaled to a longer context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from engineroom.errors import ArgumentError


def scale_rope(text_config: Any, kind: str, native: int, wanted: int) -> None:
    """Stretches a config's ``native`` positions to ``wanted``, as transformers.modeling_rope_utils reads it.

    Where layers differ in their rotary embeddings, those of full attention are stretched: a sliding window never sees
    positions further apart than the model was made for.

    Raises:
        ArgumentError: the model has no rotary embeddings, or has scaled them already.
    """
    own: object = getattr(text_config, "rope_parameters", None)
    if not isinstance(own, Mapping) or not own:
        raise ArgumentError(
            f"rope_scaling={kind} needs a model with rotary position embeddings",
            fix="leave rope_scaling out",
            argument="rope_scaling",
        )
    parameters = dict(cast("Mapping[str, Any]", own))
    full: object = parameters.get("full_attention")
    if isinstance(full, Mapping):
        parameters["full_attention"] = _scaled(cast("Mapping[str, Any]", full), kind, native, wanted)
    else:
        parameters = _scaled(parameters, kind, native, wanted)
    text_config.rope_parameters = parameters


def _scaled(own: Mapping[str, Any], kind: str, native: int, wanted: int) -> dict[str, Any]:
    if own.get("rope_type", "default") != "default":
        raise ArgumentError(
            f"rope_scaling={kind}: this model's rotary embeddings are scaled already ({own['rope_type']})",
            why=f"its own scaling reaches {native} tokens, and two scalings can't be combined",
            fix="leave rope_scaling out",
            argument="rope_scaling",
        )
    scaled = {**own, "rope_type": kind, "factor": wanted / native}
    if kind in ("yarn", "llama3"):
        scaled["original_max_position_embeddings"] = native
    if kind == "llama3":  # Llama 3.1's own values
        scaled.update(low_freq_factor=1.0, high_freq_factor=4.0)
    return scaled


class DynamicRope:
    """Keeps ``rope_scaling=dynamic`` free of memory.

    Transformers recomputes dynamic frequencies when a longer sequence comes and keeps them for shorter ones after it,
    in the module. With several sequences side by side, an answer would depend on its neighbours' lengths.
    """

    def __init__(self, modules: list[Any]) -> None:
        self._modules = modules

    @classmethod
    def of(cls, model: Any) -> DynamicRope:
        modules: list[nn.Module] = list(model.modules())
        return cls(
            [module for module in modules if any("dynamic" in kind for kind in rope_kinds(module).values())]
        )

    def forget(self) -> None:
        """Before a forward pass: the frequencies of the model's own context, which this pass may stretch for itself."""
        for module in self._modules:
            for layer, kind in rope_kinds(module).items():
                if "dynamic" in kind:
                    original = getattr(module, f"{layer}original_inv_freq")
                    setattr(module, f"{layer}inv_freq", original)
                    setattr(module, f"{layer}max_seq_len_cached", module.original_max_seq_len)


def rope_kinds(module: Any) -> Mapping[str, str]:
    """A module's rotary embeddings: the attribute prefix of each kind of layer → its rope type."""
    kinds: object = getattr(module, "rope_type", None)
    if isinstance(kinds, str):
        return {"": kinds}
    if isinstance(kinds, Mapping):
        return {f"{layer}_": str(kind) for layer, kind in cast("Mapping[str, object]", kinds).items()}
    return {}
