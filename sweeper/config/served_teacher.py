"""What a study cannot have next to a teacher that answers over a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Refusal, short
from sweeper.config.judgement import COMPARING, largest_top_k
from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.config.server import Server
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
    yield from _arms(config, server)
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
        if "teacher" in pair and not teacher_is_scored(config.teacher, config.evaluation):
            yield ("compare", number), f"expected arms or start: {_no_score(server)}"


def _no_score(server: Server) -> str:
    """Return why a teacher with this server has no score."""
    reason = "a teacher that answers over a server has no score"
    return f"{reason} without evaluation.engine: vllm" if server.gives_tokens else reason


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
    longest = config.teacher_outputs.max_new_tokens if config.needs_teacher_outputs() else 0
    if server.max_length is not None and server.max_length <= longest:
        message = (
            f"expected more than {longest} (teacher_outputs.max_new_tokens), found"
            f" {server.max_length}: a prompt with its answer has to fit"
        )
        yield (*key, "max_length"), message


def _arms(config: StudyConfig, server: Server) -> Iterator[Refusal]:
    for name, arm in config.arms.items():
        if arm.method in COMPARING and not server.gives_tokens:
            message = (
                f"expected method sft or seqkd, found {arm.method}, which compares the student's"
                " distribution with the teacher's: over chat completions there are answers only."
                " Use seqkd, a server of vLLM's (api: vllm), or load the teacher (leave"
                " teacher.server out)"
            )
            yield ("arms", name), message
        elif arm.method in COMPARING:
            yield from _judged(config, name, arm)
        for part, keys in (("settings", arm.settings), ("search", arm.search)):
            for key in keys:
                if key.startswith("teacher."):
                    message = (
                        "expected none next to teacher.server, which has one teacher for all arms"
                    )
                    yield ("arms", name, part, key), message
    largest, key = largest_top_k(config), "max_logprobs"
    options = server.options if isinstance(server, StartedServer) else {}
    for written, limit in options.items():
        if largest is None or written.replace("-", "_").lower() != key:
            continue
        if type(limit) is not int or (limit != -1 and limit < largest.k):
            named = ".".join(largest.key)
            message = f"expected at least {largest.k} (teacher_top_k of {named}), or none"
            yield ("teacher", "server", "options", written), f"{message}, found {short(limit)}"


def _judged(config: StudyConfig, name: str, arm: ArmConfig) -> Iterator[Refusal]:
    """Yield what keeps an arm from comparing its students with a served teacher."""
    engine = arm.settings.get("engine", config.training.engine)
    if engine != "sweeper":
        own = "engine" in arm.settings
        message = f"expected sweeper next to teacher.server, found {engine}: TRL's trainers load"
        key = ("arms", name, "settings", "engine") if own else ("training", "engine")
        yield key, f"{message} the teacher"
        return
    signals = [*arm.places("teacher_signal")] or [((), "exact")]
    for place, signal in signals:
        if signal == "exact":
            expected = "top_k" if arm.method == "supervised_kd" else "top_k, or sampled"
            found = "exact" if place else "none (exact)"
            message = (
                f"expected teacher_signal: {expected} next to teacher.server, which reports the"
                f" teacher's most likely tokens (teacher_top_k) and never all, found {found}"
            )
            yield ("arms", name, *place), message
