"""The conformance suite on KTransformers, with the experts in float32: what it compares with is Transformers in float32.

What the other methods round is measured by itself, in ``tests/unit/engines/test_ktransformers.py``.
"""

from typing import Any, ClassVar

import pytest

from engineroom.testing import EngineConformance

pytestmark = pytest.mark.slow


class TestKTransformers(EngineConformance):
    backend = "ktransformers"
    arguments: ClassVar[dict[str, Any]] = {"kt_method": "LLAMAFILE"}
    sparse = True
