"""What a study cannot have next to a teacher that answers over a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sweeper.config.base import Refusal
from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig

_OF_WEIGHTS = ("dtype", "quantization", "vocab_size", "compile", "random_init")
"""Keys of a teacher whose weights are loaded."""
_OF_FILES = ("revision", "trust_remote_code", "init_kwargs", "chat_template_kwargs")
"""Keys of a teacher that is read from files, if only its tokenizer."""
_UNSERVED = {
    "compile": "vLLM compiles the model itself",
    "init_kwargs": "vLLM does not read arguments of from_pretrained; write options of vLLM",
    "quantization": "name a model that is stored quantized, which vLLM reads as it is",
    "random_init": "vLLM serves stored weights",
    "vocab_size": "vLLM serves the whole vocabulary",
}
"""Keys of a teacher that a server of vLLM would not heed."""


def served_teacher_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield what needs a teacher whose weights are loaded, or does nothing with a served one."""
    server = config.teacher.server
    if server is None:
        return
    yield from _arms(config)
    if isinstance(server, StartedServer):
        dead = {
            key: f"expected none next to server: {{start: vllm}}: {reason}"
            for key, reason in _UNSERVED.items()
        }
        yield from _start(config, server)
    else:
        dead = _without_weights(server)
    for key, message in dead.items():
        if getattr(config.teacher, key) != ModelConfig.model_fields[key].default:
            yield ("teacher", key), message
    if "batch_size" in config.teacher_outputs.model_fields_set:
        message = "has no effect next to teacher.server: its concurrency says how many are asked"
        yield ("teacher_outputs", "batch_size"), message
    if config.compute.shard_teacher:
        yield (
            ("compute", "shard_teacher"),
            "expected false next to teacher.server: it has no weights",
        )
    for number, pair in enumerate(config.compare or ()):
        if "teacher" in pair:
            message = "expected arms or start: a teacher that answers over a server has no score"
            yield ("compare", number), message


def _without_weights(server: RemoteServer) -> dict[str, str]:
    """Return the keys of a teacher that do nothing next to a server elsewhere, with messages."""
    keys = _OF_WEIGHTS if server.gives_tokens else (*_OF_WEIGHTS, *_OF_FILES)
    message = "has no effect next to server, which answers in the teacher's place"
    found = dict.fromkeys(keys, message)
    if "chat_template_kwargs" in found:
        hint = "write server.extra_body, as far as the server takes such arguments"
        found["chat_template_kwargs"] += f": {hint}"
    return found


def _start(config: StudyConfig, server: StartedServer) -> Iterator[Refusal]:
    """Yield why sweeper cannot start the server."""
    key = ("teacher", "server")
    if sys.platform != "linux":
        yield (*key, "start"), "expected none on this machine: vLLM runs on Linux"
    longest = config.teacher_outputs.max_new_tokens
    if server.max_length is not None and server.max_length <= longest:
        message = (
            f"expected more than {longest} (teacher_outputs.max_new_tokens), found"
            f" {server.max_length}: a prompt with its answer has to fit"
        )
        yield (*key, "max_length"), message


def _arms(config: StudyConfig) -> Iterator[Refusal]:
    for name, arm in config.arms.items():
        if arm.method in ("gkd", "supervised_kd"):
            message = (
                f"expected method sft or seqkd, found {arm.method}, which compares the student's"
                " distribution with the teacher's: over teacher.server there are answers only. Use"
                " seqkd, or load the teacher (leave teacher.server out)"
            )
            yield ("arms", name), message
        for part, keys in (("settings", arm.settings), ("search", arm.search)):
            for key in keys:
                if key.startswith("teacher."):
                    message = (
                        "expected none next to teacher.server, which has one teacher for all arms"
                    )
                    yield ("arms", name, part, key), message
