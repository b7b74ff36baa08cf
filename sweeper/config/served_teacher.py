"""What a study cannot have next to a teacher that answers over a server."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.config.base import Refusal
from sweeper.config.models import ModelConfig
from sweeper.config.study import StudyConfig

_OF_WEIGHTS = ("dtype", "quantization", "vocab_size", "compile", "random_init")
"""Keys of a teacher whose weights are loaded."""
_OF_FILES = ("revision", "trust_remote_code", "init_kwargs", "chat_template_kwargs")
"""Keys of a teacher that is read from files, if only its tokenizer."""


def served_teacher_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield what needs a teacher whose weights are loaded, or does nothing with a served one."""
    server = config.teacher.server
    if server is None:
        return
    yield from _arms(config)
    dead = _OF_WEIGHTS if server.gives_tokens else (*_OF_WEIGHTS, *_OF_FILES)
    for key in dead:
        if getattr(config.teacher, key) != ModelConfig.model_fields[key].default:
            message = "has no effect next to server, which answers in the teacher's place"
            if key == "chat_template_kwargs":
                message += ": write server.extra_body, as far as the server takes such arguments"
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
