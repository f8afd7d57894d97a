"""Each field that the official clients can send is known here: honoured, or refused with the reason."""

from typing import Any

import pytest
from anthropic.types import (
    message_create_params,
    text_block_param,
    thinking_block_param,
    tool_result_block_param,
    tool_use_block_param,
)
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import chat_completion_stream_options_param
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import (
    easy_input_message_param,
    response_create_params,
    response_format_text_json_schema_config_param,
    response_function_tool_call_param,
    response_input_param,
    response_output_message_param,
    response_output_text_param,
    response_reasoning_item_param,
    response_text_config_param,
)
from openai.types.shared_params import reasoning

from engineroom.server.wire import messages, responses
from engineroom.server.wire.chat import ChatRequest
from engineroom.server.wire.common import StreamOptions, Wire
from engineroom.server.wire.completions import CompletionRequest
from engineroom.server.wire.embeddings import EmbeddingRequest

IN_A_HEADER = {"betas"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ChatRequest, chat_params.CompletionCreateParamsBase),
        (StreamOptions, chat_completion_stream_options_param.ChatCompletionStreamOptionsParam),
        (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
        (EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
        (responses.ResponsesRequest, response_create_params.ResponseCreateParamsBase),
        (responses.ResponsesStreamOptions, response_create_params.StreamOptions),
        (responses.InputMessage, easy_input_message_param.EasyInputMessageParam),
        (responses.InputMessage, response_output_message_param.ResponseOutputMessageParam),
        (responses.OutputText, response_output_text_param.ResponseOutputTextParam),
        (responses.InputReasoning, response_reasoning_item_param.ResponseReasoningItemParam),
        (responses.FunctionCall, response_function_tool_call_param.ResponseFunctionToolCallParam),
        (responses.FunctionCallOutput, response_input_param.FunctionCallOutput),
        (responses.ReasoningConfig, reasoning.Reasoning),
        (responses.TextConfig, response_text_config_param.ResponseTextConfigParam),
        (
            responses.SchemaFormat,
            response_format_text_json_schema_config_param.ResponseFormatTextJSONSchemaConfigParam,
        ),
        (messages.MessagesRequest, message_create_params.MessageCreateParamsBase),
        (messages.MessagesRequest, beta_message_create_params.MessageCreateParamsBase),
        (messages.TextBlock, text_block_param.TextBlockParam),
        (messages.ThinkingBlock, thinking_block_param.ThinkingBlockParam),
        (messages.ToolUseBlock, tool_use_block_param.ToolUseBlockParam),
        (messages.ToolResultBlock, tool_result_block_param.ToolResultBlockParam),
    ],
)
def test_no_field_of_the_official_clients_is_unknown(ours: type[Wire], theirs: Any) -> None:
    known = {field.alias or name for name, field in ours.model_fields.items()} | set(ours.refused)
    assert set(theirs.__annotations__) - known - IN_A_HEADER == set()
