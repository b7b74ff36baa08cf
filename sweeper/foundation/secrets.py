"""Keeps secrets out of everything that is shown, recorded or shared.

A secret is what stands under a name such as ``token`` or ``db_password``, the password of a URL,
and what looks like a token of a hub. Only jobs receive secrets: every copy of a
study that is written down holds ``***`` in their place.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from pydantic import BaseModel

HIDDEN = "***"
SHORTEST = 6
"""Characters of a secret that is looked for in running text: shorter ones are found everywhere."""

_SECRET = (
    r"(?:(?:hf_|auth_|access_|api_|use_auth_)?token|authorization"
    r"|\w*(?:password|passwd|passphrase|secret|api_?key|access_key|private_key|credentials?))"
)
_SECRET_NAME = re.compile(rf"(?:^|[./]){_SECRET}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"(?:^|\w*_){_SECRET}$", re.IGNORECASE)
# A password is taken to reach to the last @ before white space, so that an unescaped one is hidden
# whole, at the price of hiding too much of an odd address.
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):([^\s'\"]+)@")
# On the web, a user without a password is a token.
_URL_USER = re.compile(r"(https?://)([^\s:/@]+)@", re.IGNORECASE)
_URL_QUERY = re.compile(rf"([?&]{_SECRET}=)([^\s&#'\"]+)", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|sk-[A-Za-z0-9_-]{20,})"
)
_ASSIGNMENT = re.compile(
    rf"((?:^|[.\s?&'\"{{,]){_SECRET}['\"]?\s*[=:]\s*(?:(?:bearer|basic)\s+)?)"
    r"""("[^"\n]*"|'[^'\n]*'|['"]?[^\s&,'"}]+)""",
    re.IGNORECASE,
)


def redact_credentials(text: str, known: Collection[str] = ()) -> str:
    """Return ``text`` without the passwords of URLs, hub tokens and ``known`` secrets.

    For prose and logs, in which ``token: x`` is rarely a secret.
    """
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _URL_USER.sub(rf"\1{HIDDEN}@", text)
    text = _URL_QUERY.sub(rf"\1{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def redact(text: str, known: Collection[str] = ()) -> str:
    """Return ``text`` also without values of secret names: for commands, YAML and JSON."""
    return _ASSIGNMENT.sub(_hide_value, redact_credentials(text, known))


def redact_file(path: Path, known: Collection[str]) -> None:
    """Remove secrets, as ``redact_credentials`` does, from a log that nobody writes any more."""
    try:
        # Byte for byte, but for the secrets.
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return
    clean = redact_credentials(text, frozenset(known) | secrets_of_environment())
    if clean != text:
        temporary = path.with_name(f".{path.name}.clean")
        temporary.write_bytes(clean.encode("utf-8", "surrogateescape"))
        os.replace(temporary, path)


def redact_option(text: str) -> str:
    """Return an option as typed, ``KEY=VALUE`` or ``--set KEY=VALUE``, without secrets."""
    name, separator, _ = text.removeprefix("--set").lstrip(" =").partition("=")
    if separator and any(is_secret_name(part) for part in re.split(r"[./]", name.strip())):
        return f"{text[: text.index(name) + len(name)]}={HIDDEN}"
    return redact(text)


def redact_command(arguments: Iterable[str]) -> str:
    """Return a command for a shell, without secrets; pasted, it asks for them again."""
    return shlex.join(redact_option(argument) for argument in arguments)


def _hide_value(found: re.Match[str]) -> str:
    before, value = found[1], found[2]
    quote = value[0] if value[0] in "'\"" else ""
    return f"{before}{quote}{HIDDEN}{quote if value[1:].endswith(quote or ' ') else ''}"


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return True if a key of this name, such as ``token`` or ``db_password``, holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redacted(value: Any, name: str = "") -> Any:
    """Return a plain copy of ``value`` with secrets hidden, by the names of their keys and in URLs.

    Other text stays as it is, so that two copies are equal only if nothing but secrets differs.
    """
    secret = is_secret_name(name)
    if isinstance(value, Mapping):
        return {
            str(key): redacted(inner, name if secret else str(key)) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(inner, name if secret else "") for inner in value]
    if secret and value is not None and not isinstance(value, bool):
        return HIDDEN
    return redact_credentials(value) if isinstance(value, str) else value


def redacted_json(record: BaseModel) -> str:
    """Return a record as a file holds it: JSON, indented, without secrets."""
    return json.dumps(redacted(record.model_dump(mode="json")), indent=1) + "\n"


def secrets_in(value: Any) -> frozenset[str]:
    """Return the secrets that ``value`` holds: for finding them in text that others write."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    found = set(_secrets(value, ""))
    found |= {unquote(secret) for secret in found}
    return frozenset(secret for secret in found if len(secret) >= SHORTEST and secret != HIDDEN)


def secrets_of_environment() -> frozenset[str]:
    """Return the values of environment variables with secrets' names, such as ``HF_TOKEN``."""
    return frozenset(
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and _SECRET_VARIABLE.match(name)
    )


def _secrets(value: Any, name: str) -> Iterator[str]:
    secret = is_secret_name(name)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(inner, name if secret else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner, name if secret else "")
    elif secret and value is not None and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, str):
        for pattern in (_URL_PASSWORD, _URL_USER, _URL_QUERY):
            yield from (found[2] for found in pattern.finditer(value))
        yield from _TOKEN.findall(value)
