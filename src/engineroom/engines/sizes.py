"""How long a context may be, and how large its cache: read from arguments and checkpoint, for any engine."""

from __future__ import annotations

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.errors import ArgumentError


def context_length(arguments: Arguments, checkpoint: Checkpoint, own: str, *, stretched: bool = False) -> int:
    """The engine's own argument if given, else ``model_maxlen``, else the own one's default; never more than the model's.

    Args:
        own: the argument that is the engine's, such as ``vllm_maxlen``.
        stretched: the model's limit was changed otherwise.

    Raises:
        ArgumentError: more was asked for than the model has.
    """
    native = checkpoint.context_length
    for name in (own, "model_maxlen"):
        wanted: int | None = getattr(arguments, name)
        if name not in arguments.model_fields_set or wanted is None:
            continue
        if native is not None and wanted > native and not stretched:
            raise ArgumentError(
                f"{name}={wanted} is more than the model's {native}",
                fix=f"lower it, or leave {name} out",
                argument=name,
            )
        return wanted
    default: int = getattr(arguments, own)
    return min(default, native or default)


def stored_dtype(checkpoint: Checkpoint) -> str | None:
    """The type of the weights, by config or by the first tensor; None if neither says."""
    stored = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return checkpoint.dtype or next((stored[t.dtype] for t in checkpoint.tensors if t.dtype in stored), None)


def cache_bytes(checkpoint: Checkpoint, tokens: int, dtype: str) -> int | None:
    """Bytes of keys and values for so many tokens; None if the config does not say."""
    config = checkpoint.text_config
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    heads = config.get("num_key_value_heads", heads)
    size = head_size(checkpoint)
    if not (isinstance(layers, int) and isinstance(heads, int) and size):
        return None
    return 2 * layers * heads * size * (4 if dtype == "float32" else 2) * tokens


def head_size(checkpoint: Checkpoint) -> int | None:
    """The width of an attention head, if the config says."""
    config = checkpoint.text_config
    size, hidden, heads = (config.get(k) for k in ("head_dim", "hidden_size", "num_attention_heads"))
    if isinstance(size, int):
        return size
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None
