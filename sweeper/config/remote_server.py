"""A server elsewhere that the teacher answers through, by OpenAI's API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from sweeper.config.base import Duration, JsonMapping, Problems, Strict, short

_HERE = ("localhost", "127.0.0.1", "::1")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_ENDPOINTS = ("/chat/completions", "/completions")
_GIVEN = {
    "messages": "the messages of the data",
    "prompt": "the prompts of the data",
    "tools": "the tools of the data",
    "model": "server.model",
    "temperature": "teacher_outputs.temperature",
    "max_tokens": "teacher_outputs.max_new_tokens",
    "seed": "the study's seed",
    "n": "one answer to each prompt",
    "stream": "whole answers",
}
"""Fields of a request that have keys of their own, with where their values come from."""
_MAY_GO = ("temperature", "max_tokens", "seed")
"""Fields that ``null`` leaves out, for servers that refuse them."""
HOW_IT_IS_ASKED = ("api_key_env", "concurrency", "timeout", "retry_for")
"""Keys that change no answer, and so may change while a study runs."""


class RemoteServer(Strict):
    """A server elsewhere that answers in the teacher's place, by OpenAI's API."""

    url: str
    """The API's base address, such as `https://host/v1`; without a password or a query."""
    api: Literal["chat", "vllm"] = "chat"
    """How prompts are asked. `chat`: messages to `/chat/completions`, text back, whatever the
    teacher's tokenizer. `vllm`: token ids to vLLM's `/completions`, exact tokens back; teacher and
    student then have one tokenizer."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """The model's name at the server; by default `teacher.model`."""
    api_key_env: str | None = None
    """The environment variable that holds the API's key, where jobs run. The key itself is never
    written anywhere."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Prompts asked at a time."""
    timeout: Duration = 600.0
    """Seconds until an answer has to be complete."""
    retry_for: Duration = 600.0
    """Seconds during which one prompt is asked again while the server is busy, fails or cannot be
    reached; then the study stops, and can be resumed."""
    extra_body: JsonMapping = {}
    """Further fields of each request, such as `reasoning_effort`. `null` for `seed`, `temperature`
    or `max_tokens` leaves that field out, for servers that refuse it."""

    @property
    def is_here(self) -> bool:
        """True if the server runs on this machine."""
        return urlsplit(self.url).hostname in _HERE

    @property
    def gives_tokens(self) -> bool:
        """True if answers come back as token ids, in the student's vocabulary."""
        return self.api == "vllm"

    def identity(self, model: str) -> dict[str, Any]:
        """Return what decides the answers to a request, by the teacher's name in the study."""
        return {
            "url": self.url.rstrip("/"),
            "api": self.api,
            "model": self.model or model,
            "extra_body": self.extra_body,
        }

    @field_validator("url", mode="after")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if message := _url_problem(url):
            problems = Problems()
            problems.add((), message)
            problems.raise_if_any()
        return url

    @field_validator("api_key_env", mode="after")
    @classmethod
    def _check_variable(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            problems = Problems()
            # What stands there may be the key itself.
            message = "expected the name of an environment variable in capitals, such as"
            problems.add((), f"{message} TEACHER_API_KEY, not the key itself")
            problems.raise_if_any()
        return name

    @field_validator("extra_body", mode="after")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        problems = Problems()
        for name, value in extra.items():
            if name in _GIVEN and not (name in _MAY_GO and value is None):
                problems.add((name,), f"{name!r} cannot be set here: it is {_GIVEN[name]}")
        problems.raise_if_any()
        return extra

    @model_validator(mode="after")
    def _check_key_is_safe(self) -> RemoteServer:
        if self.api_key_env and not self.is_here and urlsplit(self.url).scheme == "http":
            problems = Problems()
            message = "expected https next to api_key_env: by http, anyone on the way can read the"
            problems.add(("url",), f"{message} key (http is for this machine, 127.0.0.1)")
            problems.raise_if_any()
        return self


def _url_problem(url: str) -> str | None:
    """Say what is wrong with a base address; None if nothing is."""
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError:
        return f"expected an address such as https://host/v1, found {short(url)}"
    # The address is not repeated where a part of it may be a secret.
    if address.username is not None or address.password is not None:
        return (
            "expected no user or password in the address: write api_key_env, the name of an"
            " environment variable with the key"
        )
    if address.query or address.fragment:
        return (
            "expected no query in the address: write api_key_env for a key, and extra_body for"
            " fields of the request"
        )
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        return f"expected an address such as https://host/v1, found {short(url)}"
    if re.search(r"[\s\x00-\x20\x7f-\x9f]", url):
        return "expected an address without white space"
    for end in _ENDPOINTS:
        if address.path.rstrip("/").endswith(end):
            base = url.rstrip("/").removesuffix(end)
            return f"expected the base address, {short(base)}, without {end}"
    return None
