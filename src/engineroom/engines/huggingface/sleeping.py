"""Sleep: the weights move to the host's memory, keys and values are forgotten, and the accelerator is free for others."""

from __future__ import annotations

import gc

import torch

from engineroom.engines.huggingface.loaded import LoadedModel


def why_not(loaded: LoadedModel) -> str:
    """Why this model can't sleep; empty if it can."""
    if loaded.device.type == "cpu":
        return "the model is on the CPU, in the host's memory already"
    if getattr(loaded.model, "hf_device_map", None) and len(set(loaded.model.hf_device_map.values())) > 1:
        return "device_map spread the model over several places"
    if getattr(loaded.model, "is_quantized", False):
        return "a quantised model can't be moved"
    return ""


def sleep(loaded: LoadedModel) -> None:
    """On the inference thread."""
    if loaded.prefixes is not None:
        loaded.prefixes.clear()
        loaded.prefixes.cache.give_memory_back()
    _move(loaded, torch.device("cpu"))
    gc.collect()
    torch.accelerator.empty_cache()


def wake(loaded: LoadedModel) -> None:
    """On the inference thread.

    Raises:
        torch.OutOfMemoryError: others took the memory; the model sleeps on.
    """
    try:
        _move(loaded, loaded.device)
        if loaded.prefixes is not None:
            loaded.prefixes.cache.take_memory()
    except torch.OutOfMemoryError:
        sleep(loaded)
        raise


def _move(loaded: LoadedModel, device: torch.device) -> None:
    with torch.inference_mode(False):
        loaded.model.to(device)
        if loaded.value_head is not None:
            loaded.value_head.to(device)
