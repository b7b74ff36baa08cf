"""The keys of a server that sweeper starts: what is wrong is named at its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig
from tests.support.study_texts import edit, load, problems

STUDY = """\
study: tiny
teacher: {model: builtin/adder-teacher, server: {start: vllm}}
student: {model: builtin/adder-student}
data: {train: {path: builtin/addition, limit: 24}}
teacher_outputs: {max_new_tokens: 64}
arms:
  seqkd: {}
  sft: {}
evaluation: {selection: selection.yaml, test: test.yaml}
"""
TEACHER = "{model: builtin/adder-teacher, server: {start: vllm}}"


def server(text: str, beside: str = "") -> str:
    return f"{{model: builtin/adder-teacher{beside}, server: {{start: vllm{text}}}}}"


MISTAKES = [
    (server(", gpus: -1"), "teacher.server.gpus", "greater than or equal to 0"),
    (server(", gpu_memory: 1.5"), "teacher.server.gpu_memory", "less than or equal to 1"),
    (server(", gpu_memry: 0.5"), "teacher.server.gpu_memry", "did you mean 'gpu_memory'"),
    (server(", max_length: 0"), "teacher.server.max_length", "greater than or equal to 1"),
    (server(", max_length: 64"), "teacher.server.max_length", "expected more than 64"),
    (server(", url: 'https://host/v1'"), "teacher.server.url", "expected either url"),
    (server(", api_key_env: KEY"), "teacher.server.api_key_env", "expected one of max_length"),
    (server("").replace("vllm", "sglang"), "teacher.server.start", "expected 'vllm'"),
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
    (server("", ", random_init: true"), "teacher.random_init", "stored weights"),
    (server("", ", vocab_size: 100"), "teacher.vocab_size", "the whole vocabulary"),
    (server("", ", compile: true"), "teacher.compile", "vLLM compiles the model itself"),
]


@pytest.mark.parametrize(("teacher", "place", "message"), MISTAKES)
def test_each_mistake_is_named_at_its_key(
    folder: Path, teacher: str, place: str, message: str
) -> None:
    [problem] = problems(folder, edit(TEACHER, teacher, STUDY))
    assert problem.path.endswith(place)
    assert message in problem.message


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("  sft: {}", "  gkd: {}", "arms.gkd", "expected teacher_signal: top_k, or sampled"),
        ("  sft: {}", "  supervised_kd: {}", "arms.supervised_kd", "expected teacher_signal"),
        (
            "  seqkd: {}",
            "  seqkd: {settings: {teacher.model: small}}",
            "arms.seqkd.settings.teacher.model",
            "one teacher for all arms",
        ),
        (
            "evaluation:",
            "compare: [[seqkd, teacher]]\nconfirm: {seeds: 5}\nevaluation:",
            "compare.0",
            "has no score",
        ),
        ("64}", "64, batch_size: 4}", "teacher_outputs.batch_size", "its concurrency"),
        (
            "evaluation:",
            "compute: {devices_per_trial: 2, shard_teacher: true}\nevaluation:",
            "compute.shard_teacher",
            "it has no weights",
        ),
        (
            "adder-student}",
            "adder-student, server: {start: vllm}}",
            "student.server",
            "expected this key at the teacher",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(
    folder: Path, old: str, new: str, place: str, message: str
) -> None:
    [problem] = problems(folder, edit(old, new, STUDY))
    assert problem.path == place
    assert message in problem.message


def test_a_study_with_a_server_is_read(folder: Path) -> None:
    text = edit(TEACHER, server(", gpus: 0, max_length: 256, options: {max_num_seqs: 4}"), STUDY)
    study = load(folder, text).config
    started = study.teacher.server
    assert isinstance(started, StartedServer)
    assert (started.gpus, started.max_length, started.options) == (0, 256, {"max_num_seqs": 4})
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study


def test_where_it_runs_decides_no_answer() -> None:
    one = StartedServer(start="vllm", gpus=2, gpu_memory=0.5, python="python", concurrency=1)
    assert one.identity("m") == StartedServer(start="vllm").identity("m")
    assert one.identity("m") != StartedServer(start="vllm", max_length=9).identity("m")
