"""The connection to a Ray cluster, which may ask for a token and may listen to this machine alone.

Whether both sides show tokens must agree: a cluster without them does not answer a driver that
asks for one. So the cluster decides, unless ``RAY_AUTH_MODE`` is set.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_setup import generate_and_save_token
from ray.exceptions import AuthenticationError

import sweeper
from sweeper.foundation.environment import available_cores
from sweeper.foundation.errors import SweeperError

_native: Any = _raylet

_MODE = "RAY_AUTH_MODE"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_GET_TOKEN = (
    "`ray get-auth-token` on its head node prints it: write it to ~/.ray/auth_token here, or set"
    " RAY_AUTH_TOKEN_PATH to a file that holds it"
)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster at ``address`` while the block runs.

    Args:
        address: ``HOST:PORT``, ``auto`` for the cluster of this machine, or ``local`` for a new one
            that other machines cannot reach.

    Raises:
        SweeperError: No cluster answers, or it refuses this machine's token.
    """
    mode = os.environ.get(_MODE)
    try:
        _connect(address, mode)
        yield
    finally:
        ray.shutdown()
        _speak(mode)


def _connect(address: str, mode: str | None) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    # Ray has its workers import from the directory in which it is begun.
    package = Path(sweeper.__file__).parents[1]
    try:
        if address == "local":
            _make_token(mode)
            options |= {"num_cpus": available_cores(), "include_dashboard": False}
            with _on_loopback(), chdir(package):
                ray.init(address=address, _node_ip_address="127.0.0.1", **options)
            return
        found, loopback = _find(address)
        _agree_on_token(found, mode)
        with _on_loopback(loopback), chdir(package):
            ray.init(address=found, **options)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        hint = "start one with `ray start --head`, or" if address == "auto" else "check it, or"
        if address == "local":
            message = f"Ray cannot start a cluster here: {last_line(error)}"
        else:
            message = (
                f"no Ray cluster answers at {address!r}: {hint} use `address: local`"
                f" ({last_line(error)})"
            )
        raise SweeperError(f"compute.address: {message}") from None


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, or its type's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _find(address: str) -> tuple[str, bool]:
    """Return where something listens; and True if that is 127.0.0.1 alone.

    Ray itself would try for minutes. It takes 127.0.0.1 for the machine's address in its network.

    Raises:
        OSError: Nothing listens.
    """
    found = services.canonicalize_bootstrap_address_or_die(address)
    with _on_loopback():
        kept = services.canonicalize_bootstrap_address_or_die(address)
    try:
        _listens(found)
    except OSError:
        if kept == found:
            raise
        _listens(kept)
        return kept, True
    return found, False


def _listens(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


@contextmanager
def _on_loopback(loopback: bool = True) -> Iterator[None]:
    """Have Ray leave 127.0.0.1 as it is, which it does on systems where it makes no clusters."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not loopback
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _agree_on_token(address: str, mode: str | None) -> None:
    """Show a token from now on if the cluster asks for one.

    Raises:
        SweeperError: There is none, it is another one, or ``mode`` forbids what the cluster asks.
    """
    cluster = f"compute.address: the Ray cluster at {address}"
    _speak("disabled")
    if not _refuses(address):
        if (mode or "").lower() == "token":
            message = f"{cluster} asks for no token, but {_MODE}=token is set: unset it"
            raise SweeperError(message)
        return
    if mode is not None and mode.lower() != "token":
        raise SweeperError(f"{cluster} asks for a token, but {_MODE}={mode} is set: unset it")
    if not _has_token():
        raise SweeperError(f"{cluster} asks for a token, but there is none here; {_GET_TOKEN}.")
    _speak("token")
    if _refuses(address):
        raise SweeperError(f"{cluster} has another token than {_source()}; {_GET_TOKEN}.")


def _speak(mode: str | None) -> None:
    if mode is None:
        os.environ.pop(_MODE, None)
    else:
        os.environ[_MODE] = mode
    # Ray reads the environment once.
    _native.Config.initialize("")


def _refuses(address: str) -> bool:
    """Return True if the cluster does not accept what this process shows, or fails to show."""
    try:
        with _muted():
            _native.GcsClient(address=address).internal_kv_get(
                b"session_name", b"session", _ANSWER_SECONDS
            )
    except AuthenticationError:
        return True
    except ray.exceptions.RpcError as error:
        raise ConnectionError(last_line(error)) from None
    return False


@contextmanager
def _muted() -> Iterator[None]:
    """Drop what Ray's native code writes to the terminal: a refusal is an answer here."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _has_token() -> bool:
    """Return True if this machine has a token.

    Raises:
        SweeperError: It should be in a file that cannot be read, or is empty.
    """
    loader = _native.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        return bool(loader.has_token(ignore_auth_mode=True))
    except AuthenticationError:
        raise SweeperError(
            f"compute.address: expected the cluster's token in {_source()}, which is empty or"
            " cannot be read."
        ) from None


def _source() -> str:
    """Return where this machine's token is from; Ray looks there in this order."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH, {path}"
    return str(Path.home() / ".ray" / "auth_token")


def _make_token(mode: str | None) -> None:
    """Make the token of a new cluster, which Ray would make too, but for everybody to read."""
    if (mode or "token").lower() != "token" or _has_token():
        return
    before = os.umask(0o077)
    try:
        generate_and_save_token()
    finally:
        os.umask(before)
    _native.AuthenticationTokenLoader.instance().reset_cache()
