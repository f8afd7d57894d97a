"""``python benchmarks/profiled.py FILE api …``: engineroom, with the event loop that a server runs on under cProfile.

``python -m cProfile`` sees the main thread only, which does nothing but wait for the end.
"""

from __future__ import annotations

import cProfile
import runpy
import sys
from threading import Thread

_run = Thread.run


def main() -> None:
    file = sys.argv.pop(1)

    def run(self: Thread) -> None:
        if not self.name.endswith("-loop"):
            _run(self)
            return
        profile = cProfile.Profile()
        profile.runcall(_run, self)
        profile.dump_stats(file)

    Thread.run = run
    runpy.run_module("engineroom", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
