"""A folder of experts that were converted before: what is in it, and reading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from engineroom.engines.ktransformers.kernel import Kernel, Packed, Pool, Shape
from engineroom.engines.ktransformers.methods import KTMethod, Method
from engineroom.errors import ArgumentError, ModelLoadError

MANIFEST = "engineroom.json"
_GGML = {"F32": "FP32", "F16": "FP16"}


def ggml_format(name: str) -> str:
    """What kt-kernel calls a format of GGUF's library."""
    return _GGML.get(name, name)


def tensor_names(layer: int) -> tuple[str, ...]:
    """What GGUF files call a layer's experts: gate, up, down."""
    return tuple(f"blk.{layer}.ffn_{name}_exps.weight" for name in ("gate", "up", "down"))


def layer_file(layer: int) -> str:
    return f"experts-{layer:05}.gguf"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``engineroom convert-experts`` notes beside what it writes.

    Attributes:
        source: the model's name.
        source_bytes: the size of its weights, to tell that it is the same one.
        pools: thread pools; of AMXINT8 and AMXINT4 each has files of its own, so they must be as many when it is read.
        layers: number → the shape of its experts. Those that are written and verified.
    """

    method: KTMethod
    source: str
    source_bytes: int
    pools: int
    layers: Mapping[int, Shape]

    def write(self, folder: Path) -> None:
        """Beside, then renamed: the file is never half a file."""
        new = folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        new.replace(folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """
        Raises:
            ModelLoadError: it is damaged.
        """
        file = folder / MANIFEST
        if not file.is_file():
            return None
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            layers = {int(number): Shape(**shape) for number, shape in value["layers"].items()}
            return cls(value["method"], value["source"], value["source_bytes"], value["pools"], layers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelLoadError(
                f"{str(file)!r} can't be read",
                why=f"{type(error).__name__}: {error}",
                fix="delete the folder, and run engineroom convert-experts again",
            ) from error


@dataclass(frozen=True)
class Converted:
    """
    Attributes:
        manifest: None for GGUF files that others made.
    """

    folder: Path
    manifest: Manifest | None

    @classmethod
    def open(cls, folder: Path) -> Converted:
        """
        Raises:
            ArgumentError: there are no converted experts.
            ModelLoadError: its manifest is damaged.
        """
        folder = folder.expanduser()
        manifest = Manifest.read(folder)
        if manifest is None and not any(folder.glob("*.gguf")):
            raise ArgumentError(
                f"there are no converted experts in kt_weight_path={folder}",
                why=f"it has neither {MANIFEST} nor a .gguf file",
                fix="make some with engineroom convert-experts; kt_method=BF16 and FP8 take the checkpoint itself",
                argument="kt_weight_path",
            )
        return cls(folder, manifest)

    @property
    def method(self) -> KTMethod:
        return self.manifest.method if self.manifest else "LLAMAFILE"

    def check(self, method: KTMethod, pools: int) -> None:
        """
        Raises:
            ArgumentError: it was made for another method, or for other thread pools.
        """
        if method != self.method:
            raise ArgumentError(
                f"kt_method={method}, but the experts in kt_weight_path are {self.method}",
                fix=f"leave kt_method out, or use kt_method={self.method}",
                argument="kt_method",
            )
        if self.manifest and self.method != "LLAMAFILE" and self.manifest.pools != pools:
            raise ArgumentError(
                f"the experts in kt_weight_path were converted for kt_threadpool_count={self.manifest.pools}",
                why=f"{pools} thread pools would need files of their own",
                fix=f"add kt_threadpool_count={self.manifest.pools}, or convert the model again",
                argument="kt_weight_path",
            )

    def kernel(self, pool: Pool, method: Method, shape: Shape, layer: int, dtype: torch.dtype) -> Kernel:
        """The kernel of a layer.

        Raises:
            ModelLoadError: the layer is not there, or has another shape.
        """
        if self.manifest is None or self.method == "LLAMAFILE":
            return Kernel.of_packed(pool, method, shape, layer, self._packed(layer, shape), dtype)
        found = self.manifest.layers.get(layer)
        if found is None:
            raise self._unfit(f"layer {layer} is missing", "run engineroom convert-experts again: it goes on")
        if (found.experts, found.hidden, found.inner) != (shape.experts, shape.hidden, shape.inner):
            raise self._unfit(
                f"layer {layer} has another shape", "name the folder that was made of this model"
            )
        self._check_files(layer, found)
        return Kernel.of_files(pool, method, shape, layer, self.folder)

    def holds(self, layer: int, shape: Shape) -> bool:
        """Is a layer that was converted still there, and whole as far as its files' sizes tell?"""
        try:
            if self.method == "LLAMAFILE":
                tensors = _tensors_of(self.folder / layer_file(layer))
                return all(name in tensors for name in tensor_names(layer))
            self._check_files(layer, shape)
        except (ModelLoadError, *_DAMAGED):
            return False
        return True

    def _check_files(self, layer: int, shape: Shape) -> None:
        """
        Raises:
            ModelLoadError: a file is missing, or shorter or longer than its own name says.
        """
        assert self.manifest is not None
        expected = (
            6 * shape.experts
        )  # a file of numbers and one of scales for each of an expert's three matrices
        for part in range(self.manifest.pools):
            files = (self.folder / f"_layer_{layer}" / f"_numa_{part}").glob("*.kt")
            whole = [file for file in files if f"_{file.stat().st_size}Byte_" in file.name]
            if len(whole) < expected:
                raise self._unfit(
                    f"layer {layer} has {len(whole)} whole files of {expected}",
                    "run engineroom convert-experts again: it converts that layer anew",
                )

    def _packed(self, layer: int, shape: Shape) -> Packed:
        found = [self._tensors.get(name) for name in tensor_names(layer)]
        whole = [tensor for tensor in found if tensor is not None]
        if len(whole) != 3:
            raise self._unfit(
                f"layer {layer} is missing: blk.{layer}.ffn_…_exps.weight",
                "name the folder of all its GGUF files",
            )
        sizes = [[int(size) for size in tensor.shape] for tensor in whole]  # GGUF has the fastest axis first
        up = [shape.hidden, shape.inner, shape.experts]
        if sizes != [up, up, [shape.inner, shape.hidden, shape.experts]]:
            raise self._unfit(
                f"layer {layer} has another shape", "name the folder that was made of this model"
            )
        formats = [str(tensor.tensor_type.name) for tensor in whole]
        if "BF16" in formats:
            raise self._unfit(
                "its experts are BF16", "kt-kernel 0.7.2 computes NaN with them; use Q8_0, or kt_method=BF16"
            )
        tensors: list[Tensor] = [cast("Any", torch).from_numpy(tensor.data) for tensor in whole]
        gate, up_, down = map(ggml_format, formats)
        return Packed(*tensors, formats=(gate, up_, down))

    @cached_property
    def _tensors(self) -> Mapping[str, Any]:
        """Every tensor of the folder's GGUF files by name, mapped into memory (copy on write: torch warns of what it can't write)."""
        found: dict[str, Any] = {}
        for file in sorted(self.folder.glob("*.gguf")):
            try:
                found |= _tensors_of(file)
            except _DAMAGED as error:
                raise self._unfit(
                    f"{file.name} can't be read: {error}",
                    "run engineroom convert-experts again: it converts that layer anew",
                ) from error
        return found

    def _unfit(self, why: str, fix: str) -> ModelLoadError:
        return ModelLoadError(f"the experts in {str(self.folder)!r} can't be used", why=why, fix=fix)


_DAMAGED = (ValueError, OSError, IndexError, KeyError)
"""What GGUF's library raises on half a file."""


def _tensors_of(file: Path) -> dict[str, Any]:
    import gguf

    return {tensor.name: tensor for tensor in cast("Any", gguf).GGUFReader(file, "c").tensors}
