"""What went wrong with one request, as the error that its caller gets."""

from __future__ import annotations

from engineroom.errors import EngineroomError, GenerationError


def as_engineroom_error(error: Exception) -> Exception:
    if isinstance(error, EngineroomError):
        return error
    wrapped = GenerationError(
        "the model failed on this request", why=f"{type(error).__name__}: {error}", fix="other requests go on"
    )
    # A traceback's frames hold tensors, as long as somebody holds the error.
    wrapped.__cause__ = error.with_traceback(None)
    return wrapped


def not_a_number(what: str) -> GenerationError:
    return GenerationError(
        f"the model's {what} is not a number (NaN or infinite)",
        why="the weights are broken, or infer_dtype overflows on this prompt",
        fix="try infer_dtype=float32 or infer_dtype=bfloat16",
    )
