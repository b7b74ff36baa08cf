"""Secrets are hidden wherever they stand, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.foundation.secrets import (
    is_secret_name,
    redact,
    redact_command,
    redact_credentials,
    redact_option,
    redacted,
    secrets_in,
    secrets_of_environment,
)

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWx"


@pytest.mark.parametrize(
    "text",
    [
        "token: s3cret-x",
        "token: 's3cret-x and more s3cret-x'",
        '"hf_token": "s3cret-x"',
        "{'password': 's3cret-x'}",
        "init_kwargs: {token: s3cret-x, a: 1}",
        "--set teacher.init_kwargs.token=s3cret-x",
        "postgresql://me:s3cret-x@host/db",
        "postgresql://me:a@b:s3cret-x@host/db",
        "https://s3cret-x@github.com/a/b",
        "https://host/x?a=1&token=s3cret-x&b=2",
        "Authorization: Bearer s3cret-x",
        "AWS_SECRET_ACCESS_KEY=s3cret-x",
        "api_key = s3cret-x",
        "token:\n    s3cret-x",
    ],
)
def test_what_is_given_to_a_secrets_name_is_hidden(text: str) -> None:
    assert "s3cret-x" not in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_new_tokens: 128",
        "pad_token: <pad>",
        "a token is a word",
        "postgresql://me@host/db",
        "tokens: [1, 2]",
        "see https://host/x?page=2",
    ],
)
def test_anything_else_stays(text: str) -> None:
    assert redact(text) == text


def test_prose_keeps_its_tokens() -> None:
    text = f"unexpected token: x; {TOKEN} at http://me:pw-pw-pw@host, known-secret"
    shown = redact_credentials(text, {"known-secret"})
    assert shown == "unexpected token: x; *** at http://me:***@host, ***"


def test_structures_keep_everything_but_their_secrets() -> None:
    value: dict[str, Any] = {
        "model": "a/b",
        "init_kwargs": {"token": "abc", "use_auth_token": True, "password": 1234, "x": None},
        "teacher.init_kwargs.token": "abc",
        "credentials": {"user": "me", "list": ["p", 2]},
        "system_prompt": "the password: is swordfish",
        "uri": "postgresql://me:abc-def@host",
        "steps": (1, 2.5),
    }
    assert redacted(value) == {
        "model": "a/b",
        "init_kwargs": {"token": "***", "use_auth_token": True, "password": "***", "x": None},
        "teacher.init_kwargs.token": "***",
        "credentials": {"user": "***", "list": ["***", "***"]},
        "system_prompt": "the password: is swordfish",
        "uri": "postgresql://me:***@host",
        "steps": [1, 2.5],
    }
    assert redacted(redacted(value)) == redacted(value)


def test_secrets_are_found_to_be_hidden_in_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {
        "init_kwargs": {"token": "first-secret", "list": [TOKEN]},
        "uri": "postgresql://me:sec%40ond@host",
        "short": {"password": "abc"},
    }
    assert secrets_in(value) == {"first-secret", TOKEN, "sec%40ond", "sec@ond"}
    assert secrets_in(redacted(value)) == frozenset()
    monkeypatch.setenv("HF_TOKEN", "third-secret")
    monkeypatch.setenv("PGPASSWORD", "fourth-secret")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert {"third-secret", "fourth-secret"} <= secrets_of_environment()
    assert "false" not in secrets_of_environment()


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("teacher.init_kwargs.token=my secret", "teacher.init_kwargs.token=***"),
        ("--set=teacher.init_kwargs.token=my secret", "--set=teacher.init_kwargs.token=***"),
        ("--set tracking.uri=http://a:b c@d", "--set tracking.uri=http://a:b c@d"),
        ("tracking.uri=http://a:bcd@d", "tracking.uri=http://a:***@d"),
        ("teacher.init_kwargs={token: abc}", "teacher.init_kwargs={token: ***}"),
        ("training.max_steps=20", "training.max_steps=20"),
        ("study.yaml", "study.yaml"),
    ],
)
def test_options_are_shown_without_secrets(argument: str, shown: str) -> None:
    assert redact_option(argument) == shown


def test_a_command_is_still_a_command() -> None:
    arguments = ["sweeper", "run", "my study.yaml", "--set", "a.token=x y"]
    assert redact_command(arguments) == "sweeper run 'my study.yaml' --set 'a.token=***'"


@pytest.mark.parametrize("name", ["token", "hf_token", "x.token", "db_password", "Authorization"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["pad_token", "tokens", "tokenizer", "max_new_tokens", "secretary"]
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)
