"""Loading a sparse model whose experts go to kt-kernel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.huggingface.library import Model, ModelConfig
from engineroom.engines.huggingface.loader import Loader
from engineroom.engines.ktransformers.experts import (
    KTExperts,
    Place,
    check_likeness,
    check_spares_experts,
    find_experts,
)
from engineroom.engines.ktransformers.kernel import Kernel, Pool, Weights
from engineroom.engines.ktransformers.methods import weight_dtype
from engineroom.engines.ktransformers.options import Options

_READ_ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"
"""Transformers else reads all weights at once, on several threads, long before they find their place."""


class SparseLoader(Loader):
    """A ``Loader`` that replaces the experts' modules before any weight is read."""

    def __init__(self, arguments: Arguments, checkpoint: Checkpoint) -> None:
        super().__init__(arguments, checkpoint)
        self._options = Options.of(arguments)
        for folder in self._adapters:
            check_spares_experts(folder)
        self._pool: Pool | None = None
        self._proven = False

    def close(self) -> None:
        """Frees the experts. Nothing may be computing."""
        if self._pool is not None:
            self._pool.close()

    def _load_model(self, device: torch.device, progress: Any) -> Model:
        self._pool = Pool(self._options.threads, self._options.nodes, self._options.chunk)
        try:
            with _environment(_READ_ONE_BY_ONE, "1"):
                return super()._load_model(device, progress)
        except BaseException:
            self._pool.close()
            raise

    def _load_class(self, family: Any, config: ModelConfig) -> Any:
        """The model's class, which puts ours in the place of its experts as soon as it is made."""
        with torch.device("meta"):
            model: nn.Module = family.from_config(config, trust_remote_code=self._arguments.trust_remote_code)
        places = find_experts(model)  # before anything is read
        options = self._options
        for place in places:
            options.method.check_sizes(place.shape.hidden, place.shape.inner, len(options.nodes))
        own, replace = cast("Any", type(model)), self._replace
        make: Any = own.__init__

        class Sparse(own):
            def __init__(self, *args: Any, **options: Any) -> None:
                make(self, *args, **options)
                replace(self)

        Sparse.__name__, Sparse.__qualname__ = own.__name__, own.__qualname__
        Sparse.__module__ = own.__module__  # Transformers tells a model's own code from its own by this
        return Sparse

    def _replace(self, model: nn.Module) -> None:
        """Called by Transformers, where the dtype that the model will have is torch's default."""
        computed_in = torch.get_default_dtype()
        for place in find_experts(model):
            parent = model.get_submodule(place.path.rpartition(".")[0])
            setattr(parent, place.path.rpartition(".")[2], self._experts(place, computed_in))
        if self.reads_few:
            ignored: Any = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
            cast("Any", model)._keys_to_ignore_on_load_unexpected = {*ignored, r"\.experts\."}

    def _experts(self, place: Place, computed_in: torch.dtype) -> KTExperts:
        assert self._pool is not None
        options = self._options
        if options.converted is None:
            dtype = weight_dtype(options.method, computed_in)
            return KTExperts(place, dtype, partial(self._make, place, computed_in))
        experts = KTExperts(place, torch.bfloat16, partial(self._make, place, computed_in))
        experts.take_kernel(
            options.converted.kernel(self._pool, options.method, place.shape, place.layer, computed_in)
        )
        return experts

    def _make(self, place: Place, computed_in: torch.dtype, weights: Weights) -> Kernel:
        assert self._pool is not None
        method = self._options.method
        kernel = Kernel.of_weights(self._pool, method, place.shape, place.layer, weights, computed_in)
        if not self._proven:
            check_likeness(place, kernel, weights, method)
            self._proven = True
        return kernel

    @property
    def reads_few(self) -> bool:
        """Does the checkpoint hold experts that are not read?"""
        return self._options.converted is not None

    @property
    def exact(self) -> bool:
        """Of all methods, LLAMAFILE with the checkpoint's own float32 weights rounds nothing to 16 or 8 bits."""
        return self._options.method.name == "LLAMAFILE" and self._options.converted is None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Generator[None, None, None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
