"""The weight files: their format, number and bytes, and whether they are all there and whole."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from engineroom.checkpoint import Checkpoint, TensorInfo, read_header
from engineroom.doctor.finding import Finding, from_error, problem, warning
from engineroom.errors import ModelLoadError

WeightFormat: TypeAlias = Literal["safetensors", "pickle", "none"]

_INDEX = "model.safetensors.index.json"
_LFS_POINTER = b"version https://git-lfs"  # the first words of a Git LFS pointer file (git-lfs, docs/spec.md)
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Weights:
    """What is on disk.

    Attributes:
        bytes: of the weight files, or, where they were not downloaded, what the index says they will have.
        parameters: None where they can't be counted without reading a pickle.
        float_parameters: those that loading in another dtype would convert.
        other_bytes: bytes of the rest: packed, quantised, integers.
        dtype: the type that most parameters have.
        tensors: of the files that could be read.
    """

    format: WeightFormat
    files: tuple[Path, ...]
    bytes: int
    parameters: int | None
    float_parameters: int = 0
    other_bytes: int = 0
    dtype: str | None = None
    tensors: tuple[TensorInfo, ...] = field(default=(), repr=False)


def inspect_weights(checkpoint: Checkpoint, *, remote: bool) -> tuple[Weights, list[Finding]]:
    """Looks at every weight file's header, and at the index.

    Args:
        remote: the model comes from the hub, so weights that are missing are going to be downloaded.
    """
    findings: list[Finding] = []
    index = _index(checkpoint.path / _INDEX, findings)
    files = _safetensors_files(checkpoint, index)
    if files:
        findings += _shard_findings(checkpoint, files, index, remote)
        tensors = list(_tensors([f for f in files if f.is_file()], findings))
        return _counted(files, tensors), findings
    if remote and index is not None:
        total = cast("Mapping[str, Any]", index.get("metadata") or {}).get("total_size")
        findings.append(
            warning("the weights are not downloaded yet", "loading the model downloads them first")
        )
        return Weights("safetensors", (), total if isinstance(total, int) else 0, None), findings
    if checkpoint.weight_files:
        findings += _pickle_findings(checkpoint)
        size = sum(file.stat().st_size for file in checkpoint.weight_files)
        return Weights("pickle", checkpoint.weight_files, size, None, dtype=checkpoint.dtype), findings
    findings.append(_no_weights(checkpoint, remote))
    return Weights("none", (), 0, None), findings


def is_lfs_pointer(file: Path) -> bool:
    """Is this a Git LFS pointer in the place of the file itself?"""
    try:
        with file.open("rb") as stream:
            return stream.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False


def lfs_problem(file: Path) -> Finding:
    return problem(
        f"{file.name} is a Git LFS pointer, not the file itself",
        "the repository was cloned without git-lfs",
        f"git -C {file.parent} lfs pull",
    )


# --- safetensors ------------------------------------------------------------------------------------------------


def _index(file: Path, findings: list[Finding]) -> Mapping[str, Any] | None:
    """The index, if there is one that can be read and maps tensors to files."""
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or not isinstance(
            cast("dict[str, Any]", value).get("weight_map"), dict
        ):
            raise ValueError("it has no weight_map")
    except (OSError, ValueError, RecursionError) as error:
        findings.append(lfs_problem(file) if is_lfs_pointer(file) else problem(
            f"{file.name} can't be read", str(error), "download or save the model again"
        ))  # fmt: skip
        return None
    return cast("dict[str, Any]", value)


def _weight_map(index: Mapping[str, Any]) -> Mapping[str, str]:
    return cast("Mapping[str, str]", index["weight_map"])


def _safetensors_files(checkpoint: Checkpoint, index: Mapping[str, Any] | None) -> tuple[Path, ...]:
    """The files that Transformers would read: ``model.safetensors`` alone, or those that the index names."""
    alone = checkpoint.path / "model.safetensors"
    if alone.is_file():
        return (alone,)
    present = [file for file in checkpoint.weight_files if file.suffix == ".safetensors"]
    if index is not None and present:
        return tuple(checkpoint.path / name for name in sorted({str(n) for n in _weight_map(index).values()}))
    return tuple(present)


def _shard_findings(
    checkpoint: Checkpoint, files: tuple[Path, ...], index: Mapping[str, Any] | None, remote: bool
) -> Generator[Finding, None, None]:
    missing = [file.name for file in files if not file.is_file()]
    again = f"hf download {checkpoint.name}" if remote else "copy the missing files into the folder"
    if missing:
        yield problem(
            f"{len(missing)} of {len(files)} weight files are missing: {_some(missing)}",
            f"{_INDEX} names them",
            again,
        )
    if index is None and files[0].name != "model.safetensors":
        expected = _expected_shards(files)
        lost = [name for name in expected if not (checkpoint.path / name).is_file()]
        why = f"several weight files need {_INDEX}, and it is missing"
        if len(files) == 1 and not expected:
            why = "Transformers looks for model.safetensors"
            again = f"mv {files[0]} {files[0].with_name('model.safetensors')}"
        yield problem(
            f"the weights can't be found: {_some([f.name for f in files])}",
            why + (f"; so are {_some(lost)}" if lost else ""),
            again,
        )


def _expected_shards(files: tuple[Path, ...]) -> list[str]:
    """All names of a series like ``model-00001-of-00003.safetensors``."""
    found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.safetensors", files[0].name)
    if not found:
        return []
    return [f"{found[1]}-{i:05}-of-{found[2]}.safetensors" for i in range(1, int(found[2]) + 1)]


def _tensors(files: list[Path], findings: list[Finding]) -> Generator[TensorInfo, None, None]:
    """The tensors of all files that are whole; those that are not become findings."""
    for file in files:
        if is_lfs_pointer(file):
            findings.append(lfs_problem(file))
            continue
        try:
            yield from read_header(file)
        except ModelLoadError as error:
            findings.append(from_error(error))


def _counted(files: tuple[Path, ...], tensors: list[TensorInfo]) -> Weights:
    by_dtype: dict[str, int] = {}
    for tensor in tensors:
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.parameters
    most = max(by_dtype, key=lambda name: by_dtype[name], default="")
    return Weights(
        "safetensors",
        files,
        sum(tensor.bytes for tensor in tensors),
        sum(by_dtype.values()),
        sum(count for name, count in by_dtype.items() if name in _FLOATS),
        sum(tensor.bytes for tensor in tensors if tensor.dtype not in _FLOATS),
        _FLOATS.get(most, most.lower()) or None,
        tuple(tensors),
    )


# --- others -----------------------------------------------------------------------------------------------------


def _pickle_findings(checkpoint: Checkpoint) -> Generator[Finding, None, None]:
    files = checkpoint.weight_files
    pointers = [file for file in files if is_lfs_pointer(file)]
    yield from map(lfs_problem, pointers)
    broken = [file for file in files if file not in pointers and not _is_pickle(file)]
    for file in broken:
        yield problem(
            f"{file.name} is corrupt",
            "it is not what torch.save writes, or only its beginning",
            "download or save it again",
        )
    if not pointers and not broken:
        yield warning(
            f"the weights are pickles: {_some([f.name for f in files])}",
            "a pickle can hold code; it is read in a mode that refuses any, and it can't be checked beforehand",
            f"python -c \"from transformers import AutoModelForCausalLM as M; m = '{checkpoint.path}'; "
            'M.from_pretrained(m).save_pretrained(m)"',
        )


def _is_pickle(file: Path) -> bool:
    """torch.save writes a zip archive, whose directory is at its end; before torch 1.6 it wrote a bare pickle."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) == b"\x80\x02" or zipfile.is_zipfile(file)
    except OSError:
        return False


def _no_weights(checkpoint: Checkpoint, remote: bool) -> Finding:
    gguf = sorted(f.name for f in checkpoint.path.glob("*.gguf"))
    if gguf:
        return problem(
            f"the weights are GGUF files: {_some(gguf)}",
            "engineroom reads safetensors",
            "name the repository that this one was converted from",
        )
    if remote:
        return warning("the weights are not downloaded yet", "loading the model downloads them first")
    return problem(
        f"{checkpoint.name} has no weights",
        "there is no *.safetensors and no pytorch_model*.bin file",
        "download or save the model again",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
