"""Puts the stand-ins in place, before SGLang is imported. Run by path; see ``__init__.py`` for what and why."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any


def install() -> None:
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling takes a C++ compiler and minutes
    sys.path.append(str(Path(__file__).resolve().parent))  # behind the environment's own packages
    _declare_torchvision_operators()
    hooks: Any = importlib.import_module("sglang.srt.plugins.hook_registry")
    hooks.HookRegistry.register(
        "sglang.srt.lora.lora_manager.LoRAManager.__init__", _unpin, hooks.HookType.BEFORE
    )


def _declare_torchvision_operators() -> None:
    """Where torchvision's own C++ library can be loaded, it declares them itself."""
    torch: Any = importlib.import_module("torch")
    found = importlib.import_module("importlib.util").find_spec("torchvision")
    if found is None or "+cpu" in _version("torchvision"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)  # what it declares goes with it


_LIBRARIES: list[Any] = []


def _version(name: str) -> str:
    return importlib.import_module("importlib.metadata").version(name)


def _unpin(*_: Any, **__: Any) -> None:
    """Gives SGLang's two LoRA modules a torch whose factories leave ``pin_memory`` out."""
    torch: Any = importlib.import_module("torch")
    torch.Tensor.pin_memory = _as_it_is
    for name in ("sglang.srt.lora.layers", "sglang.srt.lora.backend.torch_backend"):
        module: Any = importlib.import_module(name)
        if not isinstance(module.torch, _Unpinned):
            module.torch = _Unpinned(torch)


def _as_it_is(tensor: Any, *_: Any) -> Any:
    return tensor


class _Unpinned:
    """torch, but for the factories that can pin."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._torch, name)
        return _without_pin(found) if name in ("tensor", "zeros", "empty", "ones", "arange") else found


def _without_pin(factory: Any) -> Any:
    def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        del pin_memory
        return factory(*args, **kwargs)

    return make
