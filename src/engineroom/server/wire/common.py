"""What the bodies of several routes have in common: how unknown fields are refused, and the fields of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

from engineroom.errors import ParameterError, nearest, shown
from engineroom.params import MAX_N, MAX_SEED, MAX_TOP_LOGPROBS

Harmless: TypeAlias = tuple[Any, ...]


LABEL = "A label; nothing here depends on it."
TOOLS = 'Refused as yet, unless tool_choice is "none": calls are not read out of answers.'


def _fail_fast(schema: Any) -> None:
    if isinstance(schema, dict):
        node = cast("dict[str, Any]", schema)
        if node.get("type") == "list":
            node["fail_fast"] = True
        for part in node.values():
            _fail_fast(part)
    elif isinstance(schema, list):
        for part in cast("list[Any]", schema):
            _fail_fast(part)


class Wire(BaseModel):
    """A request's body. Types are strict: "1" is no number.

    Attributes:
        refused: fields that OpenAI's or vLLM's servers know and this one does not honour → why, and the values with
            which the field asks for nothing. null never does.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, protected_namespaces=())
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Of a wrong list the first wrong item is told: a million errors take seconds, and gigabytes."""
        schema = handler(source)
        _fail_fast(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        """
        Raises:
            ParameterError: a field is unknown or not honoured here.
        """
        if not isinstance(value, Mapping):
            return value
        fields = dict(cast("Mapping[str, Any]", value))
        known = tuple(field.alias or name for name, field in cls.model_fields.items())
        for name in [name for name in fields if name not in known]:
            given = fields.pop(name)
            if name not in cls.refused:
                raise unknown_field(name, known)
            why, harmless = cls.refused[name]
            if given is not None and not any(given is h or given == h for h in harmless):
                raise ParameterError(
                    f"{name} is not supported", why=why, fix=f"leave {name} out", parameter=name
                )
        return fields


class Answer(BaseModel):
    """A response's body, for the documentation: routes write the JSON themselves."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


def unknown_field(name: str, known: tuple[str, ...]) -> ParameterError:
    guess = nearest(name, known)
    return ParameterError(
        f"unknown field {shown(name)}",
        fix=f"did you mean {guess}?" if guess else "leave it out",
        parameter=name,
    )


def told_by_type(*known: str, role: str | None = None) -> Discriminator:
    """Chooses a union's branch by the object's ``type``. Tags are ``<type>``: no field's name, and so no part of an
    error's place.

    Args:
        role: the type of what has a role and no type.
    """

    def tag(value: Any) -> str:
        if not isinstance(value, Mapping):
            return f"<{getattr(value, 'type', None) or role}>"
        fields = cast("Mapping[str, Any]", value)
        return f"<{fields.get('type') or (role if 'role' in fields else None)}>"

    return Discriminator(
        tag,
        custom_error_type="unknown_type",
        custom_error_message=f"its type must be one of {', '.join(known)}",
    )


def _text_or_list(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<list>"


TEXT_OR_LIST = Discriminator(_text_or_list)
"""Between ``Tag("<text>")`` and ``Tag("<list>")``. Without it the error of a list's item would be that it is no text."""


class StreamOptions(Wire):
    include_usage: bool | None = Field(None, description="Send the token counts in a last event.")
    continuous_usage_stats: bool | None = Field(
        None, description="vLLM: send the counts so far in each event; with include_usage."
    )
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "include_obfuscation": ("the pieces are not padded", (False,))
    }


class DrawingFields(Wire):
    """How one answer is drawn, whatever the protocol: OpenAI's fields, then those of vLLM's server, then our own."""

    model: str | None = Field(None, description="The model or a LoRA adapter; without it, the model.")
    stream: bool | None = None
    user: str | None = Field(None, description=LABEL)
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, description="Token id → what is added to its logit.")

    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    length_penalty: float | None = Field(None, ge=-100, le=100)
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    num_beams: int | None = Field(None, ge=1, le=64, description="Above 1 searches with beams.")
    timeout: float | None = Field(None, gt=0, le=10_000_000, description="Seconds for the whole request.")


class SamplingFields(DrawingFields):
    """What chat and completions have in common."""

    n: int | None = Field(None, ge=1, le=MAX_N)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stream_options: StreamOptions | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    structured_outputs: dict[str, Any] | None = Field(
        None, description="vLLM: one of json, json_object, regex, choice, grammar."
    )
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    response_format: dict[str, Any] | None = None
    return_token_ids: bool | None = Field(
        None, description="vLLM: the prompt's and the answer's token ids, too."
    )
    return_tokens_as_token_ids: bool | None = Field(
        None, description='vLLM: in log-probabilities, tokens as "token_id:7".'
    )

    @property
    def wants_usage(self) -> bool:
        """The token counts are to come in a stream's last event."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_running_usage(self) -> bool:
        """The counts so far are to come in each event; asked for alone, it asks for nothing."""
        return self.wants_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


NEUTRAL = "it has no meaning here"

VLLM_REFUSED: Mapping[str, tuple[str, Harmless]] = {
    "best_of": ("answers are not drawn in excess", (1,)),
    "use_beam_search": ("beams are asked for by num_beams", (False,)),
    "min_tokens": ("no engine here has it", (0,)),
    "include_stop_str_in_output": ("stop strings are never part of the answer", (False,)),
    "spaces_between_special_tokens": ("text is decoded as the tokenizer does it", (True,)),
    "truncate_prompt_tokens": ("prompts are never cut", ()),
    "truncation_side": ("prompts are never cut", ()),
    "allowed_token_ids": ("no engine here has it; logit_bias is near", ([],)),
    "bad_words": ("no engine here has it; logit_bias is near", ([],)),
    "logprob_token_ids": ("log-probabilities are those of the likeliest tokens", ()),
    "priority": ("requests are served in their order", (0,)),
    "request_id": ("give the request's id in the header x-request-id", ()),
    "thinking_token_budget": ("thinking is not limited apart", ()),
    "guided_decoding_backend": ("the engine chooses it", ()),
    "cache_salt": ("there is no cache that it could part", ()),
    "kv_transfer_params": (NEUTRAL, ()),
    "vllm_xargs": (NEUTRAL, ({},)),
    "logits_processors": ("code from a request is never run", ([],)),
    "stream_interval": ("pieces are sent when they are there", (1,)),
}

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


class PromptTokens(Answer):
    cached_tokens: int


class TokenUsage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class PromptUsage(Answer):
    """Where there is no answer whose tokens could be counted."""

    prompt_tokens: int
    total_tokens: int


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Answer):
    error: ErrorDetail
