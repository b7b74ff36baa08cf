"""Foreign text in a terminal, with control characters made visible."""

from __future__ import annotations

import codecs
import io
import re
from typing import TextIO

# Control characters of ASCII and of Latin-1 without tab and newline, halves of surrogate pairs,
# line and paragraph separators, and what turns the direction of writing.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return ``text`` with control characters as escapes such as ``\x1b``; newlines stay."""
    return _STEERING.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


_PLAIN = {
    **{"✓": "+", "✗": "x", "…": "...", "·": "-", "–": "-", "—": "-", "×": "x", "→": "->"},
    **{"±": "+-", "≥": ">=", "≤": "<=", "−": "-", "′": "'", "“": '"', "”": '"', "’": "'"},
}
"""Stand-ins for signs that a terminal's encoding lacks."""


def readable(stream: TextIO) -> None:
    """Have a stream print stand-ins for signs that its encoding lacks, instead of failing."""
    if not isinstance(stream, io.TextIOWrapper) or (stream.encoding or "").lower() == "utf-8":
        return
    codecs.register_error("sweeper.plain", _stand_in)
    stream.reconfigure(errors="sweeper.plain")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end])
    return text, error.end
