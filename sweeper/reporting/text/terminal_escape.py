"""Foreign text in a terminal, with control characters made visible."""

from __future__ import annotations

import re

# Control characters of ASCII and of Latin-1, halves of surrogate pairs, line and paragraph
# separators, and what turns the direction of writing.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return ``text`` with control characters as escapes such as ``\x1b``; newlines stay."""
    return _STEERING.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\n\t":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
