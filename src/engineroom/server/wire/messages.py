"""``/v1/messages`` and ``/v1/messages/count_tokens``, after Anthropic's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, Tag

from engineroom.server.wire.common import LABEL, TEXT_OR_LIST, TOOLS, Answer, Harmless, Wire, told_by_type


class CacheControl(Wire):
    """Prefixes are kept with and without it."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(Wire):
    cache_control: CacheControl | None = Field(None, description="Prefixes are kept with and without it.")


class TextBlock(Block):
    type: Literal["text"]
    text: str
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {"citations": ("nothing is cited here", ([],))}


class Base64Source(Wire):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(Wire):
    type: Literal["url"]
    url: str


class ImageBlock(Block):
    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("<base64>")] | Annotated[UrlSource, Tag("<url>")],
        told_by_type("base64", "url"),
    ]


class ThinkingBlock(Wire):
    """What the model thought before; the chat template shows or drops it."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = Field(None, description="Nothing is signed here, and nothing checked.")


class ToolUseBlock(Block):
    """A call that the model made before."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "caller": ("only the model calls tools here", ({"type": "direct"},)),
        "toolset_name": ("tools have no sets here", ()),
    }


TextOrImages: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[
        list[
            Annotated[
                Annotated[TextBlock, Tag("<text>")] | Annotated[ImageBlock, Tag("<image>")],
                told_by_type("text", "image"),
            ]
        ],
        Tag("<list>"),
    ],
    TEXT_OR_LIST,
]


class ToolResultBlock(Block):
    """What that call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: TextOrImages = ""
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "is_error": ("templates have no mark for it; say it in the content", (False,)),
        "toolset_name": ("tools have no sets here", ()),
    }


ContentBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")],
    told_by_type("text", "image", "thinking", "tool_use", "tool_result"),
]


class InputTurn(Wire):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[list[ContentBlock], Tag("<list>")], TEXT_OR_LIST
    ]


class ThinkingOff(Wire):
    type: Literal["disabled"]


class ThinkingOn(Wire):
    type: Literal["adaptive", "enabled"]
    display: Literal["summarized"] | None = Field(None, description="Thoughts are shown whole.")
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "budget_tokens": ("thinking is not limited apart from the answer", ())
    }


class OutputSchema(Wire):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    format: OutputSchema | None = None
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "effort": ("models here have no degrees of it", ("high",))
    }


class Metadata(Wire):
    user_id: str | None = Field(None, description=LABEL)


class TurnsFields(Wire):
    """What the model is to see, as both routes have it."""

    model: str | None = Field(None, description="The model or a LoRA adapter; without it, the model.")
    messages: list[InputTurn] = Field(
        min_length=1,
        description="User and assistant in turn; the model goes on with a last message of the assistant.",
        examples=[[{"role": "user", "content": "Hi"}]],
    )
    system: (
        Annotated[Annotated[str, Tag("<text>")] | Annotated[list[TextBlock], Tag("<list>")], TEXT_OR_LIST]
        | None
    ) = Field(None, description="A system message in front.")
    thinking: (
        Annotated[
            Annotated[ThinkingOff, Tag("<disabled>")]
            | Annotated[ThinkingOn, Tag("<adaptive>")]
            | Annotated[ThinkingOn, Tag("<enabled>")],
            told_by_type("disabled", "adaptive", "enabled"),
        ]
        | None
    ) = Field(None, description="Thinking off or on, where the chat template has the switch.")
    tools: list[dict[str, Any]] | None = Field(None, description=TOOLS)
    tool_choice: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = Field(None, description="Prefixes are kept with and without it.")
    user_profile_id: str | None = Field(None, description=LABEL)
    workspace_id: str | None = Field(None, description=LABEL)


_NOT_CUT = "a conversation that is too long is refused, never cut"
_FREE = "nothing is charged here"
_REFUSED: Mapping[str, tuple[str, Harmless]] = {
    "speed": ("all requests are served alike", ("standard",)),
    "mcp_servers": ("the server calls no tools", ([],)),
    "context_management": (_NOT_CUT, ()),
    "compaction": (_NOT_CUT, ()),
    "thread": ("nothing is stored here; send the whole conversation", ()),
    "billing_policy": (_FREE, ()),
    "fallback_credit_token": (_FREE, ()),
}


class MessagesRequest(TurnsFields):
    """A conversation to answer."""

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    stream: bool | None = None
    metadata: Metadata | None = None
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        **_REFUSED,
        "service_tier": ("all requests are served alike", ("auto", "standard_only")),
        "container": ("there are none", ()),
        "inference_geo": ("the model runs where the server does", ()),
        "diagnostics": ("there are none", ()),
        "fallbacks": ("one model answers", ([],)),
    }


class CountTokensRequest(TurnsFields):
    """A conversation, to be counted."""

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = _REFUSED


class AnthropicUsage(Answer):
    """``input_tokens`` are those of the prompt that were not read from the cache."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "model_context_window_exceeded"]
    stop_sequence: str | None
    usage: AnthropicUsage


class TokenCount(Answer):
    input_tokens: int


class AnthropicErrorDetail(Answer):
    type: str
    message: str


class AnthropicErrorBody(Answer):
    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str
