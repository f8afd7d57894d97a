"""How fast an engine or a server answers: ``engineroom bench``, and the same from Python.

>>> from engineroom.benchmark import EngineTarget, Level, Plan, run
>>> result = asyncio.run(run(EngineTarget(model), Plan(levels=(Level(concurrency=8),))))
>>> result.levels[0].ttft.p50                     # seconds
"""

from __future__ import annotations

from engineroom.benchmark.measurement import Record
from engineroom.benchmark.plan import Level, Plan, Span
from engineroom.benchmark.resources import Family
from engineroom.benchmark.result import LevelResult, Result
from engineroom.benchmark.run import run
from engineroom.benchmark.statistics import Distribution
from engineroom.benchmark.target import EngineTarget, ServerTarget, Target

__all__ = [
    "Distribution", "EngineTarget", "Family", "Level", "LevelResult", "Plan", "Record", "Result", "ServerTarget",
    "Span", "Target", "run",
]  # fmt: skip
