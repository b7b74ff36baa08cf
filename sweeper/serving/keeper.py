"""The process between a coordinator and a server: it ends the server that nobody needs any more.

It is run as a script, and imports the standard library only. The coordinator holds a lock on the
lease while it lives, and the kernel releases that with the coordinator, however it ends. A lease
that nobody holds for a while ends the server; so does SIGTERM, and a launch file that was replaced
by that of another server. The server and what it starts are one process group, which ends whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_LOOK_SECONDS = 0.5
"""Seconds between two looks at the lease."""
_END_SECONDS = 15.0
"""Seconds that a server may take to end when asked, before it is killed."""
_STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def birth(pid: int) -> str | None:
    """Return when a process began, so that another one of the same id differs; None if it is gone.

    Of Linux: the boot, and the clock ticks since then.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return f"{boot}/{int(fields[19])}"


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.urandom(16).hex()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def main(launch_file: Path, launch: str, lease: Path, grace: float, command: list[str]) -> int:
    """Start ``command`` and stay with it to its end.

    Args:
        launch_file: File of the coordinator's that names the launch that counts.
        launch: The launch that this is.
        lease: File that the coordinator locks.
        grace: Seconds without a coordinator after which the server ends.
        command: The server.

    Returns:
        The server's exit code, or 128 and the signal that ended it.
    """
    waited_for = {*_STOPS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    for stop in _STOPS:
        # Whoever started this may ignore them; a server that did would not end when asked.
        signal.signal(stop, signal.SIG_DFL)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, waited_for),
    )
    processes = {
        "launch": launch,
        "keeper": {"pid": os.getpid(), "birth": birth(os.getpid())},
        "server": {"pid": server.pid, "birth": birth(server.pid)},
    }
    with suppress(OSError):  # without it, only this process can end the server
        write_private(launch_file.with_name("processes.json"), json.dumps(processes))
    alone_since: float | None = None
    while not _has_ended(server.pid):
        received = signal.sigtimedwait(waited_for, _LOOK_SECONDS)
        now = time.monotonic()
        alone_since = None if _is_held(lease) else alone_since or now
        alone = alone_since is not None and now - alone_since >= grace
        stopped = received is not None and received.si_signo in _STOPS
        if stopped or alone or not _counts(launch_file, launch):
            _end(server.pid)
    # Not reaped yet, the server's id is nobody else's, so that this is its group.
    _signal_group(server.pid, signal.SIGKILL)
    code = server.wait()
    return code if code >= 0 else 128 - code


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _is_held(lease: Path) -> bool:
    """Return True if a coordinator holds the lease."""
    try:
        descriptor = os.open(lease, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _counts(launch_file: Path, launch: str) -> bool:
    """Return True unless another launch took the place of this one."""
    try:
        return bool(json.loads(launch_file.read_bytes())["launch"] == launch)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _end(pid: int) -> None:
    """Ask the server's process group to end, and kill what does not."""
    _signal_group(pid, signal.SIGTERM)
    # A process that is stopped does not hear it.
    _signal_group(pid, signal.SIGCONT)
    deadline = time.monotonic() + _END_SECONDS
    while not _has_ended(pid) and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK_SECONDS)
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


if __name__ == "__main__":
    launch_path, launch_id, lease_path, grace_seconds, *server_command = sys.argv[1:]
    sys.exit(
        main(Path(launch_path), launch_id, Path(lease_path), float(grace_seconds), server_command)
    )
