from __future__ import annotations

import pytest

from sweeper.foundation.databases import has_password, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql+psycopg://me:p@w:x/y@host:5432/db",
            "postgresql+psycopg://me:***@host:5432/db",
        ),
        (
            "postgresql://host/db?user=me&password=pw&x=1",
            "postgresql://host/db?user=me&password=***&x=1",
        ),
        ("run --set uri=http://:pw@host and more", "run --set uri=http://:***@host and more"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert has_password(text)


@pytest.mark.parametrize(
    "uri", ["sqlite:////a/b.db", "http://localhost:5000", "postgresql://me@host:5432/db", "a: b@c"]
)
def test_anything_else_stays(uri: str) -> None:
    assert redact(uri) == uri
    assert not has_password(uri)
