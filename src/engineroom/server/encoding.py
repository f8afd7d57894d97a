"""JSON as the server writes it: compact, ASCII, and without NaN.

ASCII, because libraries that split a stream's text at every line break that Unicode knows would tear an event apart in
which U+2028 stands as it is.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii
from typing import Any

_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def compact(value: Any) -> bytes:
    """The JSON of a value. A number that is none raises ValueError: no client could read it."""
    return _encoder.encode(value).encode()


def text(value: str) -> bytes:
    """The JSON of a text, without the way through the encoder."""
    return encode_basestring_ascii(value).encode()
