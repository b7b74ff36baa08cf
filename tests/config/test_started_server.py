"""The keys of a server that sweeper starts: what is wrong is named at its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.study_texts import edit, load, problems

TEACHER = "{model: builtin/adder-teacher}"


def server(text: str, beside: str = "") -> str:
    return f"{{model: builtin/adder-teacher{beside}, server: {{start: vllm{text}}}}}"


MISTAKES = [
    (server(", gpus: -1"), "teacher.server.gpus", "greater than or equal to 0"),
    (server(", gpu_memory: 1.5"), "teacher.server.gpu_memory", "less than or equal to 1"),
    (server(", gpu_memry: 0.5"), "teacher.server.gpu_memry", "did you mean 'gpu_memory'"),
    (server(", max_length: 0"), "teacher.server.max_length", "greater than or equal to 1"),
    (server(", start_timeout: soon"), "teacher.server.start_timeout", "90s, 30m, 12h or 2d"),
    (server(", options: {port: 80}"), "teacher.server.options.port", "takes a free one"),
    (server(", options: {api-key: x}"), "teacher.server.options.api-key", "a key of its own"),
    (server(", options: {host: x}"), "teacher.server.options.host", "127.0.0.1 only"),
    (
        server(", options: {trust-remote-code: true}"),
        "teacher.server.options.trust-remote-code",
        "expected the key trust_remote_code next to model",
    ),
    (
        server(", options: {max_model_len: 9}"),
        "teacher.server.options.max_model_len",
        "expected the key max_length",
    ),
    (server(", options: {middleware: x}"), "teacher.server.options.middleware", "load code"),
    (
        server(", options: {no_enable_prefix_caching: true}"),
        "teacher.server.options.no_enable_prefix_caching",
        "expected enable_prefix_caching: false",
    ),
    (server(", options: {max_num_seqs: null}"), "options.max_num_seqs", "expected a value"),
    (server(", options: {'--x y': 1}"), "teacher.server.options.--x y", "the name of an option"),
    (server("", ", quantization: int4"), "teacher.quantization", "that is stored quantized"),
    (server("", ", init_kwargs: {use_cache: true}"), "teacher.init_kwargs", "options of vLLM"),
    (server("", ", compile: true"), "teacher.compile", "vLLM compiles the model itself"),
]


@pytest.mark.parametrize(("teacher", "place", "message"), MISTAKES)
def test_each_mistake_is_named_at_its_key(
    folder: Path, teacher: str, place: str, message: str
) -> None:
    [problem] = problems(folder, edit(TEACHER, teacher))
    assert problem.path.endswith(place)
    assert message in problem.message


def test_a_student_is_not_served(folder: Path) -> None:
    student = "builtin/adder-student, server: {start: vllm}}"
    [problem] = problems(folder, edit("builtin/adder-student}", student))
    assert (problem.path, "expected this key at the teacher" in problem.message) == (
        "student.server",
        True,
    )


def test_ray_starts_no_server(folder: Path) -> None:
    text = edit("seed: 3", "seed: 3\ncompute: {executor: ray}", edit(TEACHER, server("")))
    assert [problem.path for problem in problems(folder, text)] == ["teacher.server.start"]


def test_a_study_with_a_server_is_read(folder: Path) -> None:
    text = edit(TEACHER, server(", gpus: 0, max_length: 256, options: {max_num_seqs: 4}"))
    started = load(folder, text).config.teacher.server
    assert started is not None
    assert (started.gpus, started.max_length, started.options) == (0, 256, {"max_num_seqs": 4})
