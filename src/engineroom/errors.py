"""Everything that can go wrong, as one tree rooted in :class:`EngineroomError`.

An error says *what* went wrong, *why* (what is allowed), and the *fix* (what to type or change). ``str(error)``
shows all three, one to a line. A front end may show the parts in its own way.

::

    EngineroomError
    ├── ArgumentError            an argument of the engine or of a command (ValueError)
    │   ├── UnknownArgumentError
    │   └── TrainingArgumentError
    ├── RequestError             one request; the engine is untouched and healthy (ValueError)
    │   ├── MessageError
    │   ├── ParameterError
    │   ├── PromptTooLongError
    │   ├── TemplateError
    │   └── UnsupportedError     this engine can't do it; the error names those that can
    ├── ModelError               the checkpoint
    │   ├── ModelNotFoundError
    │   └── ModelLoadError
    ├── HistoryError             the conversations kept on this machine
    ├── ServerError              an OpenAI-compatible server: unreachable, refusing, breaking off, or talking nonsense
    └── EngineError              the engine itself
        ├── EngineNotInstalledError
        ├── EngineStartError
        ├── EngineBusyError      the queue is full; try again
        ├── EngineNotReadyError  it sleeps, or is being restarted
        ├── EngineDeadError      the engine died; every request in it fails with this
        ├── EngineClosedError    used after ``close()``
        ├── GenerationError      this one request failed inside the engine
        └── RequestTimeoutError  its ``timeout`` passed (TimeoutError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import cast


class EngineroomError(Exception):
    """The root of the tree.

    Args:
        what: what went wrong, one sentence, with the offending name or value in it.
        why: the cause, or what is allowed.
        fix: what to do next; where it is a command, exactly what to type.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ArgumentError(EngineroomError, ValueError):
    """An argument has a wrong type, is out of range, or contradicts another one."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", argument: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.argument = argument


class UnknownArgumentError(ArgumentError):
    """No argument has this name; the message names the nearest one."""


class TrainingArgumentError(ArgumentError):
    """The argument belongs to training; inference has no use for it and says so instead of ignoring it."""


class RequestError(EngineroomError, ValueError):
    """One request can't be served as asked. Raised before the engine is touched.

    Attributes:
        place: what in the request it is about (``prompt[1]``), where a parameter's name or the message does not say so.
    """

    place = ""

    def within(self, place: str) -> None:
        """Says that all of it is about one of several: ``batch_input[2]``."""
        self.place = f"{place}: {self.place}" if self.place else place
        self.what = f"{place}: {self.what}"
        self.args = (self.what,)

    def moved(self, place: str, to: str) -> None:
        """Says another place instead of the one that :meth:`within` said."""
        self.place = to + self.place.removeprefix(place)
        self.what = to + self.what.removeprefix(place)
        self.args = (self.what,)


class MessageError(RequestError):
    """The conversation is empty or malformed: an unknown role, a missing or mistyped content."""


class ParameterError(RequestError):
    """A sampling parameter is unknown, mistyped or out of range."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", parameter: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.parameter = parameter


class PromptTooLongError(RequestError):
    """The prompt leaves no room in the context.

    Attributes:
        prompt_length: tokens in the rendered prompt; an estimate if it was too long to be rendered.
        context_length: tokens that the model can attend to.
    """

    def __init__(
        self, what: str, *, why: str = "", fix: str = "", prompt_length: int, context_length: int
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.prompt_length = prompt_length
        self.context_length = context_length


class TemplateError(RequestError):
    """The chat template is missing, does not parse, or refuses this conversation."""


class UnsupportedError(RequestError):
    """The engine declares that it can't do this.

    Attributes:
        feature: the parameter or feature asked for.
        engine: the engine that lacks it.
        engines: the engines that have it.
        place: where the request asks for it (``messages[0].content[1]``), if that is not the parameter itself.
    """

    def __init__(
        self,
        feature: str,
        engine: str,
        engines: Iterable[str] = (),
        *,
        why: str = "",
        fix: str = "",
        place: str = "",
    ) -> None:
        self.feature = feature
        self.engine = engine
        self.engines = tuple(engines)
        self.place = place
        if not fix and self.engines:
            fix = f"leave {feature} out, or use infer_backend={self.engines[0]}"
        if self.engines:
            why = "; ".join(part for part in (why, f"engines that can: {', '.join(self.engines)}") if part)
        what = f"{feature} is not supported by the {engine} engine"
        super().__init__(f"{place}: {what}" if place else what, why=why, fix=fix)


class ModelError(EngineroomError):
    """Something is wrong with the checkpoint or with finding it."""


class ModelNotFoundError(ModelError):
    """No such folder, shipped model or hub repository."""


class ModelLoadError(ModelError):
    """The checkpoint is there but can't be loaded: corrupt weights, a missing file, an unknown architecture."""


class HistoryError(EngineroomError):
    """The conversations kept on this machine can't be read or written; chatting goes on without them."""


class ServerError(EngineroomError):
    """An OpenAI-compatible server can't be reached, refuses, breaks off, or answers what nobody can read.

    Attributes:
        status: the HTTP status that it answered with; None if it gave none, or broke off afterwards.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int | None = None) -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status

    @property
    def refuses_request(self) -> bool:
        """This request can't be served as asked; others may be."""
        return self.status in (400, 413, 422)


class EngineError(EngineroomError):
    """Something is wrong with an engine."""


class EngineNotInstalledError(EngineError):
    """The engine's library can't be imported here; the fix is the command that installs it."""


class EngineStartError(EngineError):
    """The engine did not come up in time, or failed on the way; its last words are in the message."""


class EngineBusyError(EngineError):
    """The bounded queue is full.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "", retry_after: float = 1.0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.retry_after = retry_after


class EngineNotReadyError(EngineError):
    """The model sleeps, is being restarted, or takes other weights. Nothing is wrong with the request."""


class EngineDeadError(EngineError):
    """The engine's thread or process is gone."""


class EngineClosedError(EngineError):
    """The model was used after ``close()``."""


class GenerationError(EngineError):
    """The engine failed on this request and on no other; the cause is chained."""


class RequestTimeoutError(EngineError, TimeoutError):
    """The request's ``timeout`` passed. Its place in the engine is free again.

    Attributes:
        timeout: the seconds that it was given.
        tokens: tokens of the answer that had been made, of all ``n`` answers together.
    """

    def __init__(
        self, what: str, *, why: str = "", fix: str = "", timeout: float = 0.0, tokens: int = 0
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.timeout = timeout
        self.tokens = tokens


_LONGEST_NAME = 200
"""Characters. What is longer is no name misspelt, and to compare megabytes takes seconds."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like ``name``, or None if nothing does."""
    if len(name) > _LONGEST_NAME:
        return None
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _beginning(value: object, limit: int) -> object:
    """As much of a list, a text or a map as can be seen of it: a million numbers take the time of many requests."""
    if type(value) in (str, bytes, list, tuple):
        return cast("Sequence[object]", value)[:limit]
    if type(value) is dict:
        return dict(islice(cast("dict[object, object]", value).items(), limit))
    return value


def shown(value: object, limit: int = 80) -> str:
    """``repr``, shortened for a message. Never fails: a hostile value has a hostile ``repr``."""
    try:
        text = repr(_beginning(value, limit))
    except Exception:
        # RecursionError of nested lists, ValueError of integers with 5,000 digits, anything of objects.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
