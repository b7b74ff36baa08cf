"""Keeps secrets out of everything that is shown, recorded or shared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SECRET = (
    r"(?:(?:hf_|auth_|access_|api_|use_auth_)?token"
    r"|\w*(?:password|passwd|secret|api_key|access_key))"
)
_SECRET_NAME = re.compile(rf"(?:^|[./]){_SECRET}$", re.IGNORECASE)
# A password is taken to reach to the last @ before white space, so that an unescaped one is hidden
# whole, at the price of hiding too much of an odd address.
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):[^\s'\"]+@")
_ASSIGNMENT = re.compile(
    rf"((?:^|[.\s?&'\"{{,]){_SECRET}['\"]?\s*[=:]\s*['\"]?)[^\s&,'\"}}]+", re.IGNORECASE
)


def redact(text: str) -> str:
    """``text`` without the passwords of URLs, and without what is assigned to a secret's name."""
    return _ASSIGNMENT.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text))


def is_secret_name(name: str) -> bool:
    """Whether a key of this name, such as ``token`` or ``db_password``, holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redacted(value: Any, name: str = "") -> Any:
    """A plain copy of ``value`` with secrets hidden, by the names of their keys and in URLs."""
    if isinstance(value, Mapping):
        return {str(key): redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    if isinstance(value, str):
        return HIDDEN if is_secret_name(name) else redact(value)
    return value
