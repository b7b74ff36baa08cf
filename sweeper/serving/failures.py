"""Why a server ended, in words, from what it printed last."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from sweeper.foundation.secrets import redact_credentials

_LAST_BYTES = 64 * 1024
_QUOTED_LINES, _QUOTED_CHARACTERS = 8, 300
_PREFIX = re.compile(r"^\([^)]*\)\s*|^(?:ERROR|INFO|WARNING) [\d-]+ [\d:.]+ \[[^\]]*\]\s*")
"""What vLLM puts before a line: the process, and the place in its code."""
_CAUSE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit)\b.*")
_VAGUE = ("Engine core initialization failed", "EngineDeadError", "Worker failed with error")
"""Parts of errors that only report that another process failed."""

PORT_TAKEN = "port taken"
_KINDS = {
    PORT_TAKEN: re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE),
    "no vllm": re.compile(r"No module named '?vllm\b"),
    "beyond the model": re.compile(r"greater than the derived max_model_len"),
    "too long": re.compile(
        r"max(?:imum)? (?:seq(?:uence)?|model) len.{0,200}(?:KV cache|cached|stored)"
        r"|KV cache is needed, which is larger than the available",
        re.IGNORECASE,
    ),
    "no memory": re.compile(
        r"out of memory|not enough memory|can't allocate memory|cannot allocate memory"
        r"|No available memory for the cache|MemoryError|bad_alloc"
        r"|less than (?:desired|requested).{0,10} memory"
        r"|(?:exceeds|larger than|insufficient).{0,40}memory",
        re.IGNORECASE,
    ),
    "not served": re.compile(
        r"architectures? .{0,200}(?:not supported|failed to be inspected)"
        r"|has no vLLM implementation|head.?size .{0,40}not supported"
        r"|Unsupported .{0,60}(?:model|architecture|head|configuration)"
        r"|does not recognize this architecture",
        re.IGNORECASE,
    ),
}
_ADVICE = {
    "no vllm": "Install it: pip install 'sweeper[vllm]'.",
    "beyond the model": "Write a smaller KEY.max_length: the model does not read as much.",
    "too long": "Write a smaller KEY.max_length, or a larger gpu_memory.",
    "no memory": (
        "Give it less to hold: a smaller KEY.max_length, or options: {max_num_seqs: 16}; another"
        " share of the GPU (gpu_memory); or, for a teacher, more GPUs (gpus). On a CPU, less for"
        " keys and values: options: {kv_cache_memory_bytes: 536870912}."
    ),
    "not served": "vLLM cannot serve this model: leave the server out, or name another model.",
}
"""What to try; KEY stands for the key that has the server's keys."""


def log_end(log: Path, start: int, secrets: frozenset[str]) -> str:
    """Return the last lines of a log from byte ``start`` on, without secrets."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - _LAST_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return redact_credentials(text, secrets).strip()


def kind_of(text: str) -> str | None:
    """Return what kind of failure a log's end shows, if it is a known one."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(text)), None)


def explain(text: str, code: int | None, key: Sequence[str]) -> str:
    """Return why a server ended, what to try, and the end of its log.

    Args:
        text: End of the log.
        code: Exit code, as a shell has it; None: it was not ours to wait for.
        key: Key of the study file that has the server's keys.
    """
    ended = "ended"
    if code is not None:
        number = code - 128
        by_signal = number in set(signal.Signals)
        ended = f"was ended by {signal.Signals(number).name}" if by_signal else f"ended ({code})"
    lines = [_without_prefix(line) for line in text.splitlines()]
    kind = kind_of(text)
    if kind is None and code == 128 + signal.SIGKILL:
        kind = "no memory"
    cause = _cause(lines, kind)
    parts = [f"{ended}: {cause}" if cause else f"{ended}."]
    if kind in _ADVICE:
        parts.append(_ADVICE[kind].replace("KEY", ".".join(key)))
    # Not the places in the code, which tracebacks indent.
    quoted = [line for line in lines if line and not line.startswith((" ", "Traceback"))]
    if quoted:
        parts.append("The end of its log:")
        parts += [f"  {line[:_QUOTED_CHARACTERS]}" for line in quoted[-_QUOTED_LINES:]]
    return "\n".join(parts)


def _cause(lines: Sequence[str], kind: str | None) -> str:
    """Return the line that shows the kind of failure, else the last error that is no other's."""
    shown = [line for line in lines if kind and _KINDS[kind].search(line)]
    if shown:
        return shown[0].strip()
    causes = [line for line in lines if _CAUSE.match(line) and not any(v in line for v in _VAGUE)]
    return causes[-1] if causes else ""


def _without_prefix(line: str) -> str:
    return _PREFIX.sub("", _PREFIX.sub("", line)).rstrip()
