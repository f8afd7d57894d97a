"""The conformance suite: what every engine must do, as tests that an engine's author subclasses.

>>> from engineroom.testing import EngineConformance
>>> class TestMyEngine(EngineConformance):
...     backend = "myengine"

docs/conformance.md explains it. It needs pytest: ``pip install 'engineroom[testing]'``.
"""

from __future__ import annotations

import pytest

# Before the modules are imported, so that a failed comparison in them is told with both its sides.
_WITH_ASSERTIONS = (
    "answers",
    "failing",
    "lab",
    "leaving",
    "machinery",
    "proofs",
    "reference",
    "refusals",
    "scores",
)
pytest.register_assert_rewrite(*(f"engineroom.testing.{name}" for name in _WITH_ASSERTIONS))

from engineroom.testing.lab import Lab, Subject  # noqa: E402
from engineroom.testing.proofs import PROOFS, Proof  # noqa: E402
from engineroom.testing.reference import Reference  # noqa: E402
from engineroom.testing.suite import EngineConformance  # noqa: E402

__all__ = ["PROOFS", "EngineConformance", "Lab", "Proof", "Reference", "Subject"]
