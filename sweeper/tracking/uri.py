"""What a tracking URI says, without asking MLflow."""

from __future__ import annotations

import re

_USER_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):[^\s]+@")
_QUERY_PASSWORD = re.compile(r"([?&](?:\w*password|passwd|\w*token|secret)=)[^&\s'\"]+", re.I)


def redact(text: str) -> str:
    """Replace the password of every URI in ``text`` by ``***``.

    Anything that is shown or stored and may contain a URI goes through here: error messages, the
    command, the study file. A password is taken to reach to the last ``@`` before white space, so
    an unescaped one is hidden whole, at the price of hiding too much of an odd URI without any.
    """
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", text))


def has_password(uri: str) -> bool:
    """Whether ``uri`` holds a password, and so must not become an argument or a log line."""
    return redact(uri) != uri


def is_server(uri: str) -> bool:
    """Whether ``uri`` names a running MLflow server, rather than a database."""
    return uri.startswith(("http://", "https://"))
