"""Sends requests: so many at once, or at a rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from engineroom.benchmark.measurement import Record, measure
from engineroom.benchmark.plan import Level, Task
from engineroom.benchmark.target import Target

Done: TypeAlias = Callable[[Record], None]
"""Called as each request ends."""


async def send(
    target: Target,
    tasks: Sequence[Task],
    level: Level,
    chance: random.Random,
    patience: float | None,
    done: Done,
) -> list[Record]:
    """Sends all tasks as the level says; returns when all have ended."""
    if level.rate is None:
        return await _at_once(target, tasks, level.concurrency or 1, patience, done)
    return await _at_rate(target, tasks, level.rate, chance, patience, done)


async def _at_once(
    target: Target, tasks: Sequence[Task], concurrency: int, patience: float | None, done: Done
) -> list[Record]:
    """A closed loop: each of ``concurrency`` clients asks again as soon as it has its answer."""
    waiting = iter(tasks)
    records: list[Record] = []
    began = time.perf_counter()

    async def client() -> None:
        for task in waiting:
            record = await measure(target, task, began, time.perf_counter() - began, patience)
            records.append(record)
            done(record)

    async with asyncio.TaskGroup() as clients:
        for _ in range(min(concurrency, len(tasks))):
            clients.create_task(client())
    return records


async def _at_rate(
    target: Target,
    tasks: Sequence[Task],
    rate: float,
    chance: random.Random,
    patience: float | None,
    done: Done,
) -> list[Record]:
    """An open loop: a Poisson process, which does not wait for a slow server and so does not spare it."""
    records: list[Record] = []
    began = time.perf_counter()

    async def ask(task: Task, due: float) -> None:
        record = await measure(target, task, began, due, patience)
        records.append(record)
        done(record)

    due = 0.0
    async with asyncio.TaskGroup() as running:
        for task in tasks:
            await asyncio.sleep(began + due - time.perf_counter())
            running.create_task(ask(task, due))
            due += chance.expovariate(rate)
    return records
