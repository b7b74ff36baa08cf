"""Has vLLM's server answer only for the weights that it was last given.

A server that is started again has its first weights. A job that asks for the answers of others must
not get the answers of those, so it names the version that it means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADER = b"sweeper-weights"
"""Header of a request that names the weights that it is meant for."""
PATH = "/sweeper/weights"
"""Path by which a job says which weights the server has now."""


class WeightsKnown:
    """ASGI middleware that refuses requests for other weights with status 412.

    Args:
        app: Application that answers the others.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._version = b""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on what names no weights, or those that the server has."""
        named = dict(scope.get("headers", ())).get(HEADER)
        if scope["type"] == "http" and scope["path"] == PATH:
            self._version = named or b""
            await _answer(send, 200)
        elif named is not None and named != self._version:
            await _answer(send, 412)
        else:
            await self._app(scope, receive, send)


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})
