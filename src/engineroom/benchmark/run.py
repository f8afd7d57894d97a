"""The whole measurement, level by level."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeAlias

from engineroom.benchmark.load import send
from engineroom.benchmark.measurement import Record
from engineroom.benchmark.plan import Level, Plan, Task
from engineroom.benchmark.resources import Family
from engineroom.benchmark.result import LevelResult, Result, finished
from engineroom.benchmark.target import Target

Progress: TypeAlias = Callable[[Level, int, int], None]
"""Called with the level, and how many of its requests have ended, of how many."""


async def run(
    target: Target,
    plan: Plan,
    *,
    pid: int | None = None,
    watch: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Measures a target at each level of the plan, one after the other.

    Args:
        pid: the process whose processor time and memory are measured, with its descendants'. For an engine this one;
            None for a server of which no process is known.

    Raises:
        ArgumentError: the plan asks for what can't be.
        ServerError, EngineError: nothing can be measured at all. What single requests fail with is in the result.
    """
    await target.prepare(plan)
    report = progress or _silent
    levels: list[LevelResult] = []
    for number, level in enumerate(plan.levels):
        chance = random.Random(
            f"{plan.seed} {number}"
        )  # other prompts at each level, or a prefix cache knows them
        tasks = await _tasks(target, plan, chance, plan.requests_at(level))
        warmup = await _tasks(target, plan, chance, plan.warmup_at(level))
        await send(target, warmup, Level(len(warmup) or 1), chance, plan.timeout, _ignored)
        levels.append(await _level(target, plan, level, tasks, chance, pid, report))
    return Result(target.name, target.engine, plan, tuple(levels), tuple(target.notes))


async def _level(
    target: Target, plan: Plan, level: Level, tasks: list[Task], chance: random.Random, pid: int | None,
    report: Progress,
) -> LevelResult:  # fmt: skip
    ended = 0

    def done(record: Record) -> None:
        nonlocal ended
        ended += 1
        report(level, ended, len(tasks))

    report(level, 0, len(tasks))
    with nullcontext() if pid is None else Family(pid) as family:
        records = await send(target, tasks, level, chance, plan.timeout, done)
    if family is None:
        return finished(level, records, None, None)
    return finished(level, records, family.cpu, family.peak_memory)


async def _tasks(target: Target, plan: Plan, chance: random.Random, count: int) -> list[Task]:
    return [
        await target.task(chance, plan.prompt.draw(chance), plan.answer.draw(chance)) for _ in range(count)
    ]


def _ignored(record: Record) -> None:
    pass


def _silent(level: Level, ended: int, total: int) -> None:
    pass
