"""KTransformersEngine: the Transformers engine with a loader of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.huggingface import HuggingfaceEngine
from engineroom.engines.ktransformers.experts import check_spares_experts
from engineroom.engines.ktransformers.loader import SparseLoader
from engineroom.types import Support


class KTransformersEngine(HuggingfaceEngine):
    """Runs a sparse model of Transformers in this process, its experts on the CPU by kt-kernel."""

    name = "ktransformers"
    capabilities: Mapping[str, Support] = CAPABILITIES["ktransformers"]
    loader_class = SparseLoader

    async def load_adapter(self, name: str, path: Path) -> None:
        check_spares_experts(AdapterFolder.open(path))
        await super().load_adapter(name, path)
