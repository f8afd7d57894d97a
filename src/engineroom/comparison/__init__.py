"""Where two models, engines or settings part ways: ``engineroom compare``, and the same from Python.

>>> from engineroom.comparison import compare, observe
>>> a, b = observe(first), observe(second)       # two ChatModels, one after the other
>>> compare(a, b).causes                         # (): they agree
"""

from __future__ import annotations

from engineroom.comparison.conversations import DEFAULT_CONVERSATIONS, ComparedConversation
from engineroom.comparison.judgement import Cause, Comparison, Difference, compare
from engineroom.comparison.observation import Depth, Observation, observe
from engineroom.comparison.served import observe_server

__all__ = [
    "DEFAULT_CONVERSATIONS", "Cause", "ComparedConversation", "Comparison", "Depth", "Difference", "Observation",
    "compare", "observe", "observe_server",
]  # fmt: skip
