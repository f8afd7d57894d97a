"""An engine in a process of its own, under the interpreter of another Python environment.

``engine.py`` is this side, :mod:`engineroom.host` the other one; ``wire.py``, ``codec.py`` and ``calls.py`` are what
they have in common.
"""

from engineroom.engines.hosted.engine import HostedEngine

__all__ = ["HostedEngine"]
