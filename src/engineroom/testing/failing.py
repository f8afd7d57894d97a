"""The end of an engine: by death, by closing, and the next one's beginning."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from engineroom.chat import ChatModel
from engineroom.errors import EngineClosedError, EngineDeadError
from engineroom.testing.lab import ENDLESS, Lab, Subject
from engineroom.testing.machinery import DEATH_BOUND, Machinery, Parts, until
from engineroom.testing.models import STORY


@dataclass(frozen=True)
class Crash:
    """What a killed engine's callers saw, and for how long they waited for it."""

    model: ChatModel
    outcomes: list[tuple[BaseException | None, float]]
    machinery: Machinery


class FailureTests:
    """Each engine that ends here is one of its own; the others are not touched."""

    @classmethod
    def kill(cls, model: ChatModel, parts: Parts) -> None:
        """Kills the engine from outside: its child processes, or else its threads. Override it for other engines."""
        parts.kill()

    @pytest.fixture(scope="class")
    @classmethod
    def crash(cls, lab: Lab) -> Any:
        """Kills an engine while it streams, answers and lets one wait."""
        machinery = Machinery()
        model = lab.start(lab.tiny_folder, max_concurrent=4)
        parts = machinery.since()
        asks: list[Callable[[], object]] = [lambda: list(model.stream_deltas(STORY, **ENDLESS))] * 2
        asks += [lambda: model.chat(STORY, **ENDLESS)] * 3
        with ThreadPoolExecutor(len(asks)) as pool:
            waiting = [pool.submit(ask) for ask in asks]
            until(lambda: model.health().running == 4)
            began = time.monotonic()
            cls.kill(model, parts)
            outcomes = [_outcome(future, began) for future in waiting]
        yield Crash(model, outcomes, machinery)
        model.close()

    def test_every_caller_of_an_engine_that_dies_is_told_in_time(self, crash: Crash) -> None:
        for error, seconds in crash.outcomes:
            assert isinstance(error, EngineDeadError)
            assert seconds <= DEATH_BOUND

    def test_whoever_comes_after_its_death_is_told_at_once(self, crash: Crash) -> None:
        began = time.monotonic()
        with pytest.raises(EngineDeadError):
            crash.model.chat(STORY)
        with pytest.raises(EngineDeadError):
            list(crash.model.stream_chat(STORY))
        assert time.monotonic() - began <= DEATH_BOUND
        assert crash.model.health().state == "dead"

    def test_a_dead_engine_can_be_closed_and_leaves_nothing(self, crash: Crash) -> None:
        crash.model.close()
        crash.machinery.assert_nothing_left()

    def test_a_new_model_serves_after_the_crash(self, crash: Crash, lab: Lab) -> None:
        """``narrow`` is started here, if no test before asked for it."""
        crash.model.close()
        lab.narrow.assert_answers_well()

    def test_a_model_restarts_after_the_crash_with_its_late_adapters(self, lab: Lab) -> None:
        """The same model object, and the same arguments."""
        lab.tiny.assert_answers_well()
        machinery = Machinery()
        late = lab.tiny.supports("load_adapter")
        subject = Subject(
            lab.start(lab.tiny_folder, **({"enable_lora": True} if late else {})), lab.tiny_folder
        )
        model, parts = subject.model, machinery.since()
        if late:
            model.load_adapter("late", lab.late_adapter)
        chosen: dict[str, Any] = {"adapter": "late"} if late else {}
        expected = subject.greedy(**chosen)
        stream = model.stream_deltas(STORY, **ENDLESS)
        next(stream)
        self.kill(model, parts)
        with pytest.raises(EngineDeadError):
            list(stream)
        assert model.health().state == "dead"
        model.restart()
        subject.assert_answers_well()
        assert subject.greedy(**chosen) == expected
        model.close()
        machinery.assert_nothing_left()

    def test_closing_in_the_middle_tells_the_callers_and_leaves_nothing(self, lab: Lab) -> None:
        lab.tiny.assert_answers_well()  # what engines share has been started, and stays
        machinery = Machinery()
        subject = Subject(lab.start(lab.tiny_folder), lab.tiny_folder)
        model = subject.model
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(lambda: model.chat(STORY, **ENDLESS)) for _ in range(2)]
            until(lambda: model.health().running == 2)
            began = time.monotonic()
            model.close()
            outcomes = [_outcome(future, began) for future in waiting]
        assert [type(error) for error, _ in outcomes] == [EngineClosedError] * 2
        model.close()
        assert model.health().state == "closed"
        with pytest.raises(EngineClosedError):
            model.chat(STORY)
        machinery.assert_nothing_left()


def _outcome(future: Future[Any], began: float) -> tuple[BaseException | None, float]:
    error = future.exception(timeout=30)
    return error, time.monotonic() - began
