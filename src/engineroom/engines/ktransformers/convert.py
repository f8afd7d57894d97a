"""``engineroom convert-experts``: a checkpoint's experts quantised once, written, and read back before they count as done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.base import Progress
from engineroom.engines.ktransformers.converted import (
    Converted,
    Manifest,
    ggml_format,
    layer_file,
    tensor_names,
)
from engineroom.engines.ktransformers.experts import KTExperts, Place, check_likeness, find_experts
from engineroom.engines.ktransformers.kernel import Kernel, Packed, Weights
from engineroom.engines.ktransformers.loader import SparseLoader
from engineroom.errors import ArgumentError, ModelLoadError

_FORMAT = "Q8_0"
"""Of the GGUF files: 8 bits, a scale for each 32 numbers."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done.

    Attributes:
        layers: that have experts.
        before: of those, how many an earlier run had done.
        size: bytes in the folder.
    """

    method: str
    layers: int
    before: int
    size: int


def convert(arguments: Arguments, out: Path, progress: Progress) -> Conversion:
    """Writes the experts of ``model_name_or_path`` to ``out``, for ``kt_weight_path``. Goes on where it was stopped.

    One layer's experts are in memory at a time; the rest of the model is, too.

    Raises:
        ArgumentError: the method has no converted form, or ``out`` holds other experts.
        ModelLoadError: the model has no experts, or what was written does not compute what it should.
    """
    for name in ("kt_weight_path", "adapter_name_or_path"):
        if getattr(arguments, name):
            raise ArgumentError(
                f"{name} makes no sense with convert-experts",
                why="experts are converted from the checkpoint itself",
                fix=f"leave {name} out",
                argument=name,
            )
    if arguments.kt_method is None:
        raise ArgumentError(
            "kt_method is missing", fix="add kt_method=AMXINT8, AMXINT4 or LLAMAFILE", argument="kt_method"
        )
    checkpoint = Checkpoint.open(arguments)
    # LLAMAFILE takes no bfloat16, and each layer is quantised from what it takes
    precise = (
        {"infer_dtype": "float32"} if arguments.kt_method == "LLAMAFILE" else {"infer_dtype": "bfloat16"}
    )
    converter = _Converter(
        arguments.model_copy(update={**precise, "device": "cpu"}), checkpoint, out, progress
    )
    return converter.run()


class _Converter(SparseLoader):
    """A loader that writes each layer's experts instead of keeping them."""

    def __init__(self, arguments: Arguments, checkpoint: Checkpoint, out: Path, progress: Progress) -> None:
        super().__init__(arguments, checkpoint)
        self._out, self._progress = out.expanduser(), progress
        method = self._options.method
        if not method.converts:
            raise ArgumentError(
                f"kt_method={method.name} has no converted form",
                why="it takes the checkpoint itself",
                fix="kt_method=AMXINT8, AMXINT4 or LLAMAFILE; or leave kt_weight_path out when you run it",
                argument="kt_method",
            )
        size = sum(file.stat().st_size for file in checkpoint.weight_files)
        wanted = Manifest(method.name, checkpoint.name, size, len(self._options.nodes), {})
        self._manifest = Manifest.read(self._out) or wanted
        if replace(self._manifest, layers={}) != wanted:
            found = self._manifest
            raise ArgumentError(
                f"{str(self._out)!r} holds other experts",
                why=f"{found.method} of {found.source}, {found.source_bytes} bytes, for {found.pools} thread pools",
                fix="name another folder, or delete that one",
            )
        written = Converted(self._out, self._manifest)
        whole = {n: shape for n, shape in self._manifest.layers.items() if written.holds(n, shape)}
        self._manifest = replace(self._manifest, layers=whole)
        self._before = len(whole)
        self._layers = 0

    def run(self) -> Conversion:
        self._out.mkdir(parents=True, exist_ok=True)
        self._manifest.write(self._out)
        try:
            self.load(self._progress)
        finally:
            self.close()
        size = sum(file.stat().st_size for file in self._out.rglob("*") if file.is_file())
        return Conversion(self._options.method.name, self._layers, self._before, size)

    @property
    def reads_few(self) -> bool:
        return self._before > 0

    def _load(self, device: torch.device, progress: Progress) -> Any:
        """The weights pass by, and no model is made of them."""
        return self._load_model(device, progress)

    def _replace(self, model: torch.nn.Module) -> None:
        self._layers = len(find_experts(model))
        super()._replace(model)

    def _experts(self, place: Place, computed_in: torch.dtype) -> KTExperts:
        experts = super()._experts(place, computed_in)
        if place.layer in self._manifest.layers:
            experts.await_nothing()
        return experts

    def _make(self, place: Place, computed_in: torch.dtype, weights: Weights) -> Kernel:
        """Writes a layer, reads it back, and compares the two, and the second with what it replaces."""
        assert self._pool is not None
        method, shape, layer = self._options.method, place.shape, place.layer
        if method.name == "LLAMAFILE":
            packed = _pack(weights)
            _write_gguf(self._out / layer_file(layer), layer, packed)
            fresh = Kernel.of_packed(self._pool, method, shape, layer, packed, computed_in)
        else:
            shutil.rmtree(
                self._out / f"_layer_{layer}", ignore_errors=True
            )  # half of it, if a run was stopped
            fresh = Kernel.of_weights(self._pool, method, shape, layer, weights, computed_in, save=self._out)
        done = replace(self._manifest, layers={**self._manifest.layers, layer: shape})
        read = Converted(self._out, done).kernel(self._pool, method, shape, layer, computed_in)
        _check_same(place, fresh, read)
        check_likeness(place, read, weights, method)
        for kernel in (fresh, read):
            kernel.free()
        done.write(self._out)
        self._manifest = done
        self._progress(f"converted layer {layer}", len(done.layers) / self._layers)
        return fresh


def _check_same(place: Place, fresh: Kernel, read: Kernel) -> None:
    shape, noise = place.shape, torch.Generator().manual_seed(1)
    rows = torch.randn(64, shape.hidden, generator=noise).to(fresh.dtype)
    experts = torch.rand(64, shape.experts, generator=noise).argsort(1)[:, : shape.per_token].contiguous()
    shares = torch.rand(64, shape.per_token, generator=noise)
    if not torch.equal(fresh(rows, experts, shares), read(rows, experts, shares)):
        raise ModelLoadError(
            f"what was written of {place.path} is not what is read back",
            why="the disk may be full, or faulty",
            fix="run engineroom convert-experts again: it goes on with this layer",
        )


def _pack(weights: Weights) -> Packed:
    def packed(tensor: Tensor) -> Tensor:
        return cast("Any", torch).from_numpy(quants.quantize(tensor.float().numpy(), kind))

    import gguf

    quants: Any = cast("Any", gguf).quants
    kind: Any = getattr(cast("Any", gguf).GGMLQuantizationType, _FORMAT)
    parts = (packed(weights.gate), packed(weights.up), packed(weights.down))
    format = ggml_format(_FORMAT)
    return Packed(*parts, formats=(format, format, format))


def _write_gguf(file: Path, layer: int, packed: Packed) -> None:
    """One layer's three tensors, under the names that llama.cpp gives them."""
    import gguf

    library: Any = gguf
    new = file.with_suffix(".new")
    writer = library.GGUFWriter(new, "engineroom-experts")
    kind = getattr(library.GGMLQuantizationType, _FORMAT)
    tensors: Mapping[str, Tensor] = dict(
        zip(tensor_names(layer), (packed.gate, packed.up, packed.down), strict=True)
    )
    for name, tensor in tensors.items():
        writer.add_tensor(name, cast("Any", tensor).numpy(), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    new.replace(file)
