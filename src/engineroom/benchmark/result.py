"""The figures, and their JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engineroom.benchmark.measurement import Record
from engineroom.benchmark.plan import Level, Plan
from engineroom.benchmark.statistics import Distribution


@dataclass(frozen=True, slots=True)
class LevelResult:
    """One level. Times are seconds. Failed requests are counted; every other figure is of those that were answered.

    Attributes:
        duration: from the first request to the end of the last one.
        cpu: seconds of processor time meanwhile; None if nobody could look.
        peak_memory: bytes; likewise.
    """

    level: Level
    records: tuple[Record, ...]
    duration: float
    cpu: float | None = None
    peak_memory: int | None = None

    @property
    def answered(self) -> list[Record]:
        return [record for record in self.records if record.error is None]

    @property
    def errors(self) -> Counter[str]:
        return Counter(record.error for record in self.records if record.error is not None)

    @property
    def ttft(self) -> Distribution | None:
        """Time to first token."""
        return Distribution.of(t for record in self.answered if (t := record.ttft) is not None)

    @property
    def inter_token(self) -> Distribution | None:
        """Time from one token to the next, over all tokens of all answers."""
        return Distribution.weighted(gap for record in self.answered for gap in record.inter_token())

    @property
    def end_to_end(self) -> Distribution | None:
        return Distribution.of(record.end_to_end for record in self.answered)

    @property
    def prompt_tokens(self) -> int:
        return sum(record.prompt_tokens for record in self.answered)

    @property
    def answer_tokens(self) -> int:
        return sum(record.answer_tokens for record in self.answered)

    @property
    def asked_tokens(self) -> int:
        """Tokens that the answers would have had if none had ended by itself."""
        return sum(record.asked_tokens for record in self.answered)

    @property
    def requests_per_second(self) -> float:
        return len(self.answered) / self.duration

    @property
    def answer_tokens_per_second(self) -> float:
        return self.answer_tokens / self.duration

    @property
    def tokens_per_second(self) -> float:
        """Prompt and answer."""
        return (self.prompt_tokens + self.answer_tokens) / self.duration

    @property
    def answer_tokens_per_cpu_second(self) -> float | None:
        return self.answer_tokens / self.cpu if self.cpu else None

    def as_json(self, *, records: bool = False) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "concurrency": self.level.concurrency,
            "rate": self.level.rate,
            "requests": len(self.records),
            "answered": len(self.answered),
            "failed": len(self.records) - len(self.answered),
            "errors": dict(self.errors.most_common()),
            "duration": self.duration,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "asked_tokens": self.asked_tokens,
            "ttft": _json(self.ttft),
            "inter_token": _json(self.inter_token),
            "end_to_end": _json(self.end_to_end),
            "requests_per_second": self.requests_per_second,
            "answer_tokens_per_second": self.answer_tokens_per_second,
            "tokens_per_second": self.tokens_per_second,
            "cpu": self.cpu,
            "answer_tokens_per_cpu_second": self.answer_tokens_per_cpu_second,
            "peak_memory": self.peak_memory,
        }
        if records:
            shown["records"] = [asdict(record) for record in self.records]
        return shown


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run."""

    name: str
    engine: str
    plan: Plan
    levels: tuple[LevelResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """A request failed, at whatever level."""
        return any(level.errors for level in self.levels)

    def as_json(self, *, records: bool = False) -> dict[str, Any]:
        """
        Args:
            records: with the times of each single request.
        """
        return {
            "model": self.name,
            "engine": self.engine,
            "prompt_tokens": str(self.plan.prompt),
            "answer_tokens": str(self.plan.answer),
            "seed": self.plan.seed,
            "timeout": self.plan.timeout,
            "notes": list(self.notes),
            "levels": [level.as_json(records=records) for level in self.levels],
        }


def finished(
    level: Level, records: Sequence[Record], cpu: float | None, peak_memory: int | None
) -> LevelResult:
    """The figures of a level whose requests have all ended."""
    duration = max((record.ended for record in records), default=0.0) or 1e-9
    return LevelResult(level, tuple(records), duration, cpu, peak_memory)


def _json(distribution: Distribution | None) -> dict[str, float] | None:
    return None if distribution is None else asdict(distribution)
