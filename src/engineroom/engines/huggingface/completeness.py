"""Does a checkpoint hold every weight that its architecture needs? Told from the files' headers; no weight is read."""

from __future__ import annotations

from typing import Any, cast

import torch
import transformers

from engineroom.checkpoint import Checkpoint, CheckpointKind, TensorInfo
from engineroom.errors import ModelLoadError

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def check_complete(checkpoint: Checkpoint, kind: CheckpointKind) -> None:
    """Builds the model without memory (on torch's ``meta`` device) and lets Transformers match the names.

    For engines whose library leaves what is missing as it came from the allocator. Nothing is said of a checkpoint
    that Transformers can't judge so: pickled or quantised weights, code of its own, an architecture that it lacks.

    Raises:
        ModelLoadError: a weight is missing, or has another shape.
    """
    safe = bool(checkpoint.weight_files) and all(f.suffix == ".safetensors" for f in checkpoint.weight_files)
    if not safe or {"quantization_config", "auto_map"} & set(checkpoint.config):
        return
    cast("Any", transformers.logging).disable_progress_bar()
    model_class, config = _model_class(checkpoint, classifier=kind == "sequence_classification")
    if model_class is None:
        return
    try:
        _, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict={tensor.name: _empty(tensor) for tensor in checkpoint.tensors},
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (
        RuntimeError
    ) as error:  # weights that belong together, such as a layer's experts, are not all there
        raise _incomplete(checkpoint, " ".join(str(error).split())[:300]) from error
    wrong = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if kind == "embedding":  # it needs no head
        wrong = [name for name in wrong if not name.startswith("lm_head.")]
    if wrong:
        more = " …" if len(wrong) > 5 else ""
        raise _incomplete(checkpoint, f"missing, or of another shape: {', '.join(wrong[:5])}{more}")


def _model_class(checkpoint: Checkpoint, *, classifier: bool) -> tuple[Any, Any]:
    """Transformers' class and config for it; None if it has none."""
    family: Any = (
        transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    )
    try:
        config = cast("Any", transformers.AutoConfig).from_pretrained(checkpoint.path)
        with torch.device("meta"):
            model: Any = family.from_config(config)
    except Exception:  # an architecture of another library, or older than this Transformers
        return None, None
    return cast("Any", type(model)), config


def _empty(tensor: TensorInfo) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=_DTYPES.get(tensor.dtype, torch.float32), device="meta")


def _incomplete(checkpoint: Checkpoint, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{checkpoint.name} lacks weights that its architecture needs",
        why=why,
        fix="download or save the model again; running it would answer with random weights",
    )
