"""What is refused, before the engine is touched: what it does not declare, bad input, and one request too many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from engineroom.engines.capabilities import CAPABILITIES, FEATURES
from engineroom.errors import EngineBusyError, ModelLoadError, ParameterError, RequestError, UnsupportedError
from engineroom.testing import models
from engineroom.testing.lab import ENDLESS, Lab
from engineroom.testing.models import CONTEXT, STORY
from engineroom.testing.proofs import PROOFS, Proof
from engineroom.types import SamplingParams

DECLARABLE = tuple(
    dict.fromkeys(
        (*FEATURES, *SamplingParams.names(), *(f for table in CAPABILITIES.values() for f in table))
    )
)
"""Everything that a table of capabilities can say something about."""

BAD: Mapping[str, tuple[Any, dict[str, Any], str]] = {
    "no messages": ([], {}, "messages is empty"),
    "an unknown role": ([{"role": "wizard", "content": "x"}], {}, "wizard"),
    "no content": ([{"role": "user", "content": None}], {}, "null"),
    "half a character": ("\ud800", {}, "half a character"),
    "top_p": (STORY, {"top_p": 3}, "top_p"),
    "temperature": (STORY, {"temperature": -1}, "temperature"),
    "n": (STORY, {"n": 10**9}, "n="),
    "no tokens": (STORY, {"max_new_tokens": 0}, "max_new_tokens"),
    "an unknown parameter": (STORY, {"temprature": 1}, "did you mean temperature"),
    "a stop id beyond the vocabulary": (STORY, {"stop_token_ids": [10**6]}, "ids go up to"),
    "a prompt as long as the context": ("word " * CONTEXT, {}, "shorten the conversation"),
    "a timeout of nothing": (STORY, {"timeout": 0}, "timeout"),
    "a format of no kind": (STORY, {"response_format": {"type": "xml"}}, "response_format"),
    "no room within max_length": (STORY, {"max_length": 3}, "max_length"),
}


BAD_FORMATS: Mapping[str, tuple[dict[str, Any], str]] = {
    "a keyword that can't be kept to": (
        {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}},
        "uniqueItems",
    ),
    "a schema that nothing satisfies": (
        {"type": "json_schema", "schema": {"$ref": "#"}},
        "no text satisfies",
    ),
    "a pattern that does not parse": ({"type": "regex", "pattern": "((("}, "parenthesis"),
    "a grammar that does not parse": ({"type": "grammar", "grammar": "root ::= nothing"}, "nothing"),
    "a grammar that leads nowhere": (
        {"type": "grammar", "grammar": 'root ::= "a" x\nx ::= x'},
        "without a way on",
    ),
    "a deep grammar": ({"type": "grammar", "grammar": f"root ::= {'(' * 9000}"}, "limit"),
}
"""What only the engine's grammar library can judge; it is refused before generation all the same."""


class RefusalTests:
    """Driven from the engine's table of capabilities."""

    proofs: ClassVar[Mapping[str, Proof]] = PROOFS

    @pytest.mark.parametrize("feature", DECLARABLE)
    def test_the_engine_does_what_it_declares(self, lab: Lab, feature: str) -> None:
        support = lab.tiny.model.engine.capabilities.get(feature, "unsupported")
        assert support in ("native", "emulated", "unsupported")
        assert feature in self.proofs, f"nothing proves {feature}; add it to engineroom.testing.proofs"
        proof = self.proofs[feature]
        if support == "unsupported":
            self._assert_refused(lab, feature, proof)
        else:
            assert proof.prove is not None, f"{feature} is declared {support}, and nothing proves it"
            proof.prove(lab)

    def test_the_table_names_nothing_unknown(self, lab: Lab) -> None:
        assert set(lab.tiny.model.engine.capabilities) <= {*DECLARABLE, *self.proofs}

    @staticmethod
    def _assert_refused(lab: Lab, feature: str, proof: Proof) -> None:
        """By name, and before generation."""
        subject = lab.tiny
        before = subject.calls.count
        with pytest.raises(UnsupportedError) as refusal:
            proof.ask(subject.model)
        assert refusal.value.feature in (feature, *proof.needs)
        assert refusal.value.engine == subject.model.engine.name
        assert refusal.value.feature in str(refusal.value)
        assert subject.model.engine.name not in refusal.value.engines
        assert subject.calls.count == before

    @pytest.mark.parametrize("bad", BAD)
    def test_bad_input_is_refused_and_the_next_request_succeeds(self, lab: Lab, bad: str) -> None:
        messages, options, says = BAD[bad]
        subject = lab.tiny
        before = subject.calls.count
        with pytest.raises(RequestError, match=says):
            subject.model.chat(messages, **options)
        with pytest.raises(RequestError, match=says):
            list(subject.model.stream_deltas(messages, **options))
        assert subject.calls.count == before
        subject.assert_answers_well()

    @pytest.mark.parametrize("bad", BAD_FORMATS)
    def test_a_bad_format_is_refused_before_the_engine(self, lab: Lab, bad: str) -> None:
        subject = lab.tiny
        if not subject.supports("response_format"):
            return  # refused whatever it is; see the proof of response_format
        form, says = BAD_FORMATS[bad]
        before = subject.calls.count
        with pytest.raises(ParameterError, match=says):
            subject.ask(response_format=form)
        assert subject.calls.count == before
        subject.assert_answers_well()

    def test_an_adapter_that_nobody_loaded_is_refused(self, lab: Lab) -> None:
        if not lab.tiny.supports("adapter"):
            return  # refused whatever its name; see the proof of adapter
        with pytest.raises(ParameterError, match="no_such_adapter"):
            lab.tiny.ask(adapter="no_such_adapter")
        lab.tiny.assert_answers_well()

    def test_a_model_with_missing_weights_is_refused(self, lab: Lab) -> None:
        """It would answer with whatever lay in the memory."""
        folder = models.with_a_hole(lab.tiny_folder, lab.home / "with a hole")
        with pytest.raises(ModelLoadError, match="down_proj"):
            lab.start(folder)

    def test_one_too_many_is_told_that_the_engine_is_busy(self, lab: Lab) -> None:
        """One may run and one may wait; whoever else comes is turned away at once, and the two are served."""
        subject = lab.narrow
        model = subject.model

        async def crowd() -> None:
            running = model.astream_deltas(STORY, **ENDLESS)
            await anext(running)
            waiting = asyncio.create_task(model.achat(STORY, max_new_tokens=4, **ENDLESS))
            await subject.until_accepted(2)
            with pytest.raises(EngineBusyError) as busy:
                await model.achat(STORY, max_new_tokens=1)
            assert busy.value.retry_after > 0
            assert subject.calls.count == before + 1
            await running.aclose()
            assert (await waiting)[0].response_length == 4

        before = subject.calls.count
        asyncio.run(crowd())
        subject.assert_answers_well()
