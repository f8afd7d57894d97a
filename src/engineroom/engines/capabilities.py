"""What each built-in engine can do, as data that can be read without importing the engine.

``native``: the engine's library does it. ``emulated``: engineroom does it above or around the library.
``unsupported``: refused by name before generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engineroom.types import SamplingParams, Support

FEATURES = (
    "chat",
    "score",
    "embed",
    "tools",
    "images",
    "videos",
    "audios",
    "load_adapter",
    "sleep",
    "flush_cache",
    "update_weights",
)
"""Beside the sampling parameters: what can be asked of an engine."""

_ABOVE = ("n", "stop", "ignore_eos", "skip_special_tokens", "timeout")
"""Parameters that the pipeline deals with, whatever the engine."""

_MEDIA: Mapping[str, Support] = {"images": "unsupported", "videos": "unsupported", "audios": "unsupported"}

_TRANSFORMERS: Mapping[str, Support] = MappingProxyType(
    {
        **dict.fromkeys(SamplingParams.names(), "native"),
        **dict.fromkeys(_ABOVE, "emulated"),
        "chat": "native",
        "score": "native",
        **dict.fromkeys(("embed", "load_adapter", "sleep", "flush_cache"), "native"),
        # Weights are laid out anew as they are loaded, and some quantised: there is nothing to copy others into.
        "update_weights": "unsupported",
        "tools": "emulated",
        **_MEDIA,
    }
)

CAPABILITIES: Mapping[str, Mapping[str, Support]] = MappingProxyType(
    {
        "huggingface": _TRANSFORMERS,
        "vllm": MappingProxyType(
            {
                **dict.fromkeys(SamplingParams.names(), "native"),
                **dict.fromkeys(_ABOVE, "emulated"),
                # vLLM has no beam search in its engine; its own helper samples one token at a time from outside.
                **dict.fromkeys(("num_beams", "length_penalty"), "unsupported"),
                "chat": "native",
                "score": "native",
                **dict.fromkeys(
                    ("embed", "load_adapter", "sleep", "flush_cache", "update_weights"), "native"
                ),
                "tools": "emulated",
                **_MEDIA,
            }
        ),
        "sglang": MappingProxyType(
            {
                **dict.fromkeys(SamplingParams.names(), "native"),
                **dict.fromkeys(_ABOVE, "emulated"),
                # A hook in SGLang's server makes it look at the prompt too; see engines/sglang/in_server/contract.py.
                "repetition_penalty": "emulated",
                # SGLang 0.5.23 heeds a request's seed only with --enable-deterministic-inference, which torch's own
                # attention does not have, and then gives all requests without a seed the same one.
                "seed": "unsupported",
                # Its beam search takes no other sampling parameter, and scores beams otherwise than Transformers.
                **dict.fromkeys(("num_beams", "length_penalty"), "unsupported"),
                "chat": "native",
                "score": "native",
                **dict.fromkeys(("embed", "load_adapter", "flush_cache", "update_weights"), "native"),
                "sleep": "unsupported",
                "tools": "emulated",
                **_MEDIA,
            }
        ),
        "ktransformers": _TRANSFORMERS,
        "scripted": MappingProxyType(
            {
                **dict.fromkeys(SamplingParams.names(), "unsupported"),
                **dict.fromkeys(("max_new_tokens", "max_length", "stop_token_ids", "logprobs"), "native"),
                **dict.fromkeys(_ABOVE, "emulated"),
                # A script is one certain text: whatever is drawn from it, at any temperature, is that text.
                **dict.fromkeys(("temperature", "top_p", "top_k", "min_p", "seed"), "native"),
                "chat": "native",
                "score": "native",
                **dict.fromkeys(
                    ("embed", "load_adapter", "sleep", "flush_cache", "update_weights"), "unsupported"
                ),
                "tools": "emulated",
                **_MEDIA,
            }
        ),
    }
)


def engines_with(feature: str) -> tuple[str, ...]:
    """The built-in engines that support ``feature``, the scripted one left out: nobody should switch to it."""
    return tuple(
        name
        for name, table in CAPABILITIES.items()
        if name != "scripted" and table.get(feature, "unsupported") != "unsupported"
    )
