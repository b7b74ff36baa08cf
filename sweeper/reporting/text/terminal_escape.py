"""Foreign text in a terminal, with control characters made visible."""

from __future__ import annotations

import re

# Control characters of ASCII and of Latin-1 without tab and newline, halves of surrogate pairs,
# line and paragraph separators, and what turns the direction of writing.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return ``text`` with control characters as escapes such as ``\x1b``; newlines stay."""
    return _STEERING.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
