"""The kernels of SGLang's CPU build that it imports by name (0.5.23); one is called without AMX."""

from __future__ import annotations

from typing import Any


def assign_req_to_token_pool_cpu(
    req_pool_indices: Any,
    req_to_token: Any,
    start_offset: Any,
    end_offset: Any,
    out_cache_loc: Any,
    pool_len: int,
) -> None:
    """Writes where each request's new tokens lie into its row of the token pool.

    Args:
        req_pool_indices: [requests], the rows.
        req_to_token: [rows, pool_len], changed in place.
        start_offset, end_offset: [requests], the columns that a request's tokens take.
        out_cache_loc: [tokens of all requests], places in the cache, one request after the other.
    """
    begin = 0
    spans = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for row, start, end in spans:
        req_to_token[row, start:end] = out_cache_loc[begin : begin + end - start]
        begin += end - start


def __getattr__(name: str) -> Any:
    """Any other kernel: it can be imported, and fails when it is called."""
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"sgl_kernel.{name} is not in engineroom's stand-in for CPUs")

    return missing
