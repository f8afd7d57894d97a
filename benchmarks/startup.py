"""How long a user waits before anything happens: ``python benchmarks/startup.py [--runs 7]``.

Each command runs as a process of its own, in turn with the others, so that a busy moment of the machine meets all.
The library imports alone are measured beside them: what of the whole is ours shows in the difference.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track
from rich.table import Table

PYTHON = (sys.executable, "-c")
ENGINEROOM = (sys.executable, "-m", "engineroom")
_UNWANTED = "torch", "transformers", "pydantic", "prompt_toolkit"


@dataclass
class Command:
    """One command line, its bound in seconds, if it has one, and what it took in each run."""

    name: str
    words: Sequence[str]
    bound: float | None = None
    seconds: list[float] = field(default_factory=list[float])

    def run(self) -> None:
        began = time.perf_counter()
        subprocess.run(self.words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        self.seconds.append(time.perf_counter() - began)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def commands() -> list[Command]:
    return [
        Command("python, nothing imported", (*PYTHON, "pass")),
        Command("import engineroom (python included)", (*PYTHON, "import engineroom"), 0.15),
        Command("engineroom --help", (*ENGINEROOM, "--help"), 0.4),
        Command("import torch, transformers' model class", (*PYTHON, _LIBRARIES)),
        Command("engineroom chat -p hi", (*ENGINEROOM, "chat", "-p", "hi", "--no-history"), 6.0),
    ]


_LIBRARIES = "import torch; from transformers import Qwen3ForCausalLM, PreTrainedTokenizerFast"


def imported_by(code: str) -> list[str]:
    """Which of the heavy libraries ``code`` imports."""
    script = f"import sys; {code}; print(*[m for m in {_UNWANTED!r} if m in sys.modules])"
    return subprocess.run((*PYTHON, script), check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    measured = commands()
    for command in measured:
        command.run()  # warms the file cache; not counted
        command.seconds.clear()
    for _ in track(range(runs), "measuring", console=Console(stderr=True)):
        for command in measured:
            command.run()
    table = Table(
        "command", "median s", "min–max s", "bound s", title=f"Start-up, {runs} runs each, interleaved"
    )
    for command in measured:
        span = f"{min(command.seconds):.2f}–{max(command.seconds):.2f}"
        table.add_row(command.name, f"{command.median:.3f}", span, f"{command.bound or '':}")
    console = Console()
    console.print(table)
    libraries, chat = measured[-2], measured[-1]
    console.print(f"library imports are {libraries.median / chat.median:.0%} of `engineroom chat -p hi`")
    console.print(f"heavy modules after `import engineroom`: {imported_by('import engineroom') or 'none'}")
    late = [c.name for c in measured if c.bound is not None and c.median > c.bound]
    console.print(f"over their bound: {', '.join(late)}" if late else "all within their bounds")


if __name__ == "__main__":
    main()
