"""The process that compiles grammars: ``python -m engineroom.engines.grammar.worker``.

A hostile grammar can compile for ever, or take all memory, inside a library that nothing interrupts. A process can be
ended. It reads lines of JSON from standard input, the tokenizer first, and answers each format with a line.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any, cast

from engineroom.engines.grammar.gbnf import UnsupportedSchemaError, to_gbnf
from engineroom.params import ResponseFormat

_MEMORY = 4 << 30
"""Bytes of address space that compiling may take beside what the libraries have."""

_TRIAL_TOKENS = 256
_TRIAL_SECONDS = 2.0
"""So many tokens, drawn at random, must be followed in so much processor time. Usual grammars take some 0.1 s."""


def main() -> None:
    import xgrammar

    _limit_memory()
    info = xgrammar.TokenizerInfo.deserialize_json(sys.stdin.readline())
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    for line in sys.stdin:
        print(json.dumps(_answer(compiler, ResponseFormat(**json.loads(line)))), flush=True)


def _answer(compiler: Any, form: ResponseFormat) -> dict[str, str]:
    """The grammar's text and its compiled form, or why it is refused."""
    try:
        text = to_gbnf(form)
        compiled = compiler.compile_grammar(text)
        _try(compiled)
        return {"text": text, "compiled": compiled.serialize_json()}
    except UnsupportedSchemaError as error:
        return {"refused": str(error)}
    except (RecursionError, MemoryError) as error:
        return {"refused": f"it is too large or too deeply nested ({type(error).__name__})"}
    except (RuntimeError, ValueError) as error:  # xgrammar's: "[time] /path/of/source.cc:83: what is wrong"
        return {"refused": str(error).strip().rpartition(".cc:")[2].partition(": ")[2] or str(error)}


def _try(compiled: Any) -> None:
    """Follows the grammar for a while, to find out that nothing satisfies it, or that following it is too slow.

    Raises:
        UnsupportedSchemaError: so it is.
    """
    import xgrammar

    vocab_size = compiled.tokenizer_info.vocab_size
    mask = xgrammar.allocate_token_bitmask(1, vocab_size)
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=False)
    draw = random.Random(0)
    began = time.process_time()
    for place in range(_TRIAL_TOKENS):
        mask.fill_(-1)
        matcher.fill_next_token_bitmask(mask, 0)
        words = [
            (i, word & 0xFFFFFFFF)
            for i, word in enumerate(cast("list[int]", cast("Any", mask)[0].tolist()))
            if word
        ]
        if not words:
            raise UnsupportedSchemaError(
                "no text satisfies it" if not place else "it comes to a place without a way on"
            )
        index, word = draw.choice(words)
        matcher.accept_token(index * 32 + draw.choice([bit for bit in range(32) if word >> bit & 1]))
        if matcher.is_terminated():
            matcher.reset()
        if time.process_time() - began > _TRIAL_SECONDS:
            raise UnsupportedSchemaError(
                f"it is too ambiguous: following it for {place + 1} tokens takes seconds"
            )


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not everywhere
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        now = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))


if __name__ == "__main__":
    main()
