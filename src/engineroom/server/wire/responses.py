"""``/v1/responses``, after OpenAI's reference. Each request brings its whole conversation: nothing is stored here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, Tag

from engineroom.server.wire.common import (
    LABEL,
    TEXT_OR_LIST,
    TOOLS,
    VLLM_REFUSED,
    Answer,
    DrawingFields,
    Harmless,
    Wire,
    told_by_type,
)

_NO_BREAKPOINTS = {"prompt_cache_breakpoint": ("prefixes are kept without it", ())}
Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]

# --- a message's content ----------------------------------------------------------------------------------------


class InputText(Wire):
    type: Literal["input_text"]
    text: str
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = _NO_BREAKPOINTS


class InputImage(Wire):
    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = _NO_BREAKPOINTS


class Sound(Wire):
    data: str = Field(description="Base64.")
    format: Literal["mp3", "wav"]


class InputAudio(Wire):
    type: Literal["input_audio"]
    input_audio: Sound


class OutputText(Wire):
    """What the model said before."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = Field(None, description="They are not shown to the model.")
    logprobs: list[Any] | None = Field(None, description="They are not shown to the model.")


class Refused(Wire):
    """What the model said where it refused."""

    type: Literal["refusal"]
    refusal: str


Content: TypeAlias = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[InputImage, Tag("<input_image>")]
    | Annotated[InputAudio, Tag("<input_audio>")]
    | Annotated[OutputText, Tag("<output_text>")]
    | Annotated[Refused, Tag("<refusal>")],
    told_by_type("input_text", "input_image", "input_audio", "output_text", "refusal"),
]
TextOrContent: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Content], Tag("<list>")], TEXT_OR_LIST
]

# --- items ------------------------------------------------------------------------------------------------------


class InputMessage(Wire):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOrContent
    id: str | None = Field(None, description=LABEL)
    status: Status | None = Field(None, description=LABEL)
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "phase": ("models here know no phases", ("final_answer",))
    }


class ReasoningPiece(Wire):
    type: Literal["reasoning_text"]
    text: str


class InputReasoning(Wire):
    """What the model thought before it said what follows; the chat template shows or drops it."""

    type: Literal["reasoning"]
    content: list[ReasoningPiece] | None = None
    id: str | None = Field(None, description=LABEL)
    status: Status | None = Field(None, description=LABEL)
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "summary": ("a summary is not what was thought; that belongs into content", ([],)),
        "encrypted_content": ("only who encrypted it can read it; content holds the text here", ()),
    }


class FunctionCall(Wire):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = Field(description="A JSON object, as text.")
    id: str | None = Field(None, description=LABEL)
    status: Status | None = Field(None, description=LABEL)
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "async": ("nothing waits for a call here", (False,)),
        "namespace": ("functions have no namespaces here", ()),
        "caller": ("only the model calls functions here", ({"type": "direct"},)),
    }


class FunctionCallOutput(Wire):
    """What that call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: TextOrContent
    id: str | None = Field(None, description=LABEL)
    status: Status | None = Field(None, description=LABEL)
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "name": ("call_id tells whose output it is", ()),
        "namespace": ("functions have no namespaces here", ()),
        "caller": ("only the model calls functions here", ({"type": "direct"},)),
    }


Item: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("<message>")]
    | Annotated[InputReasoning, Tag("<reasoning>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[FunctionCallOutput, Tag("<function_call_output>")],
    told_by_type("message", "reasoning", "function_call", "function_call_output", role="message"),
]

# --- the answer's form ------------------------------------------------------------------------------------------


class PlainFormat(Wire):
    type: Literal["text"]


class ObjectFormat(Wire):
    type: Literal["json_object"]


class SchemaFormat(Wire):
    """Every schema is kept to, whatever ``strict`` says."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")
    name: str | None = Field(None, description=LABEL)
    description: str | None = Field(None, description=LABEL)
    strict: bool | None = None


class TextConfig(Wire):
    format: (
        Annotated[
            Annotated[PlainFormat, Tag("<text>")]
            | Annotated[ObjectFormat, Tag("<json_object>")]
            | Annotated[SchemaFormat, Tag("<json_schema>")],
            told_by_type("text", "json_object", "json_schema"),
        ]
        | None
    ) = None
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "verbosity": ("no model here has the switch", ("medium",))
    }


class ReasoningConfig(Wire):
    effort: str | None = Field(
        None, description='"none" turns thinking off; models here have no degrees of it.'
    )
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "summary": ("thoughts come whole, as the reasoning item's content", ()),
        "generate_summary": ("thoughts come whole, as the reasoning item's content", ()),
        "context": ("the chat template decides which thoughts the model sees again", ("auto",)),
        "mode": ("models here think in one way", ("standard",)),
    }


class ResponsesStreamOptions(Wire):
    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "include_obfuscation": ("the pieces are not padded", (False,))
    }


Includable: TypeAlias = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
]

# --- the request ------------------------------------------------------------------------------------------------


class ConversationFields(Wire):
    """What the model is to see, as ``/v1/responses`` and ``/v1/responses/input_tokens`` both have it."""

    model: str | None = Field(None, description="The model or a LoRA adapter; without it, the model.")
    input: Annotated[Annotated[str, Tag("<text>")] | Annotated[list[Item], Tag("<list>")], TEXT_OR_LIST] = (
        Field(
            description="A text, which is a user's message, or a list of items.",
            examples=["Hi", [{"role": "user", "content": "Hi"}]],
        )
    )
    instructions: str | None = Field(None, description="A system message in front.")
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    tools: list[dict[str, Any]] | None = Field(None, description=TOOLS)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="vLLM: switches of the chat template: enable_thinking."
    )


_STORED = "nothing is stored here; send the whole conversation as input"
CONVERSATION_REFUSED: Mapping[str, tuple[str, Harmless]] = {
    "previous_response_id": (_STORED, ()),
    "conversation": (_STORED, ()),
    "truncation": ("a conversation that is too long is refused, never cut", ("disabled",)),
    "personality": ("say it in instructions", ()),
}


class ResponsesRequest(ConversationFields, DrawingFields):
    """A conversation to answer."""

    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    top_logprobs: int | None = Field(None, ge=0, le=50)
    include: list[Includable] | None = Field(
        None,
        description="message.output_text.logprobs adds log-probabilities. The others would add to items that there"
        " are none of; a reasoning item has its text, to be sent back as it is.",
    )
    stream_options: ResponsesStreamOptions | None = None
    metadata: dict[str, str] | None = Field(None, description="Labels, which come back with the answer.")
    safety_identifier: str | None = Field(None, description=LABEL)
    prompt_cache_key: str | None = Field(None, description=LABEL)

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        **VLLM_REFUSED,
        **CONVERSATION_REFUSED,
        "store": ("nothing is stored", (False,)),
        "background": ("an answer is given while its client waits", (False,)),
        "background_options": ("an answer is given while its client waits", ({},)),
        "prompt": ("there are no stored prompts; send instructions and input", ()),
        "max_tool_calls": ("the server calls no tools", ()),
        "context_management": ("a conversation that is too long is refused, never cut", ([],)),
        "service_tier": ("all requests are served alike", ("auto", "default")),
        "moderation": ("nothing is moderated", ()),
        "access_programs": ("there are none", ()),
        "image": ("no model here draws", ()),
        "prompt_cache_retention": ("nothing is kept for a time", ("in_memory",)),
        "prompt_cache_options": ("nothing is kept for a time", ({},)),
    }


class InputTokensRequest(ConversationFields):
    """A conversation, to be counted."""

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = CONVERSATION_REFUSED


# --- the answer -------------------------------------------------------------------------------------------------


class InputTokensDetails(Answer):
    cached_tokens: int


class OutputTokensDetails(Answer):
    reasoning_tokens: int


class ResponsesUsage(Answer):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseObject(Answer):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponsesUsage | None


class InputTokens(Answer):
    object: Literal["response.input_tokens"]
    input_tokens: int
