"""What a tracking URI says, without asking MLflow."""

from __future__ import annotations

from sweeper.secrets import redact


def has_password(uri: str) -> bool:
    """Whether ``uri`` holds a password, and so must not become an argument or a log line."""
    return redact(uri) != uri


def is_server(uri: str) -> bool:
    """Whether ``uri`` names a running MLflow server, rather than a database."""
    return uri.startswith(("http://", "https://"))
