"""A teacher's server: one elsewhere, or one that sweeper starts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from sweeper.config.remote_server import HOW_IT_IS_ASKED, RemoteServer
from sweeper.config.started_server import HOW_IT_RUNS, StartedServer


def _kind(server: Any) -> str:
    """Return the tag of a server, in the form that messages leave out of a key's path."""
    started = "start" in server if isinstance(server, dict) else isinstance(server, StartedServer)
    return "StartedServer" if started else "RemoteServer"


Server = Annotated[
    Annotated[RemoteServer, Tag("RemoteServer")] | Annotated[StartedServer, Tag("StartedServer")],
    Discriminator(_kind),
]

CHANGE_NO_ANSWER = frozenset({*HOW_IT_IS_ASKED, *HOW_IT_RUNS})
"""Keys that may change while a study runs."""
