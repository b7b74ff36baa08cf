"""Servers of students' weights: what cannot go with them is refused at its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.config.served_students import may_serve_students, students_server_key
from tests.support.study_texts import edit, load, problems

STUDY = """\
study: tiny
teacher: {model: builtin/adder-teacher}
student: {model: builtin/adder-student}
data: {train: {path: builtin/addition, limit: 24}}
rollouts: {engine: vllm}
training: {max_steps: 4, max_length: 64}
arms:
  gkd: {settings: {max_new_tokens: 48}}
  sft: {}
compute: {device: cpu, vllm: {max_length: 128}}
evaluation: {selection: selection.yaml, test: test.yaml}
"""
STUDENT, COMPUTE = "builtin/adder-student", "{device: cpu, vllm: {max_length: 128}}"
SCORED = """\
study: tiny
teacher: {model: builtin/adder-teacher, dtype: float32, server: {start: vllm}}
student: {model: builtin/adder-student}
data: {train: {path: builtin/addition, limit: 24}}
arms:
  sft: {}
compute: {device: cpu}
evaluation: {selection: selection.yaml, test: test.yaml, engine: vllm}
"""


def server(keys: str) -> str:
    return f"{{device: cpu, vllm: {{{keys}}}}}"


MISTAKES = [
    ("gpu_memory: 0", "gpu_memory", "greater than 0"),
    ("gpu_memory: 1", "gpu_memory", "less than 1"),
    ("gpu_memory: -0.5", "gpu_memory", "greater than 0"),
    ("gpu_memory: half", "gpu_memory", "expected a number"),
    ("gpu_memry: 0.5", "gpu_memry", "did you mean 'gpu_memory'"),
    ("gpus: 1", "gpus", "expected one of"),
    ("start: vllm", "start", "expected one of"),
    ("url: 'http://host/v1'", "url", "expected one of"),
    ("concurrency: 8", "concurrency", "expected one of"),
    ("max_length: 0", "max_length", "greater than or equal to 1"),
    ("max_length: 1.5", "max_length", "expected a whole number"),
    ("max_length: 48", "max_length", "expected more than 48 (arms.gkd.settings.max_new_tokens)"),
    ("python: ''", "python", "expected some text"),
    ("start_timeout: soon", "start_timeout", "90s, 30m, 12h or 2d"),
    ("options: 3", "options", "expected a mapping"),
    ("options: {port: 80}", "options.port", "takes a free one"),
    ("options: {api-key: x}", "options.api-key", "a key of its own"),
    ("options: {max_model_len: 9}", "options.max_model_len", "expected the key max_length"),
    ("options: {middleware: x}", "options.middleware", "load code"),
    ("options: {worker-extension-cls: x}", "options.worker-extension-cls", "load code"),
    ("options: {gpu_memory_utilization: 0.1}", "utilization", "expected the key gpu_memory"),
    ("options: {no_enforce_eager: true}", "no_enforce_eager", "expected enforce_eager: false"),
    ("options: {max_num_seqs: null}", "options.max_num_seqs", "expected a value"),
]


@pytest.mark.parametrize(("keys", "place", "message"), MISTAKES)
def test_each_mistake_is_named_at_its_key(
    folder: Path, keys: str, place: str, message: str
) -> None:
    [problem] = problems(folder, edit(COMPUTE, server(keys), STUDY))
    assert problem.path.startswith("compute.vllm.")
    assert problem.path.endswith(place)
    assert message in problem.message


REFUSED = [
    (COMPUTE, "{device: mps}", "with compute.device: mps"),
    (COMPUTE, "{device: cpu, devices_per_trial: 2}", "with compute.devices_per_trial"),
    (STUDENT, f"{STUDENT}, lora: {{}}, quantization: int8", "with a quantized student"),
]


@pytest.mark.parametrize(("old", "new", "reason"), REFUSED)
def test_what_a_server_cannot_do_is_refused_at_the_engine(
    folder: Path, old: str, new: str, reason: str
) -> None:
    [problem] = problems(folder, edit(old, new, STUDY))
    assert problem.path == "rollouts.engine"
    assert f"expected another engine than vllm {reason}" in problem.message


@pytest.mark.parametrize("old", ["device: cpu", STUDENT])
def test_scores_are_refused_at_their_engine(folder: Path, old: str) -> None:
    new = "device: mps" if old == "device: cpu" else f"{STUDENT}, lora: {{}}, quantization: int8"
    found = problems(folder, edit(old, new, SCORED))
    assert "evaluation.engine" in [problem.path for problem in found]


@pytest.mark.parametrize(("old", "new", "reason"), REFUSED)
def test_auto_does_not_try_what_it_cannot_do(folder: Path, old: str, new: str, reason: str) -> None:
    text = edit(old, new, edit("engine: vllm", "engine: auto", STUDY))
    assert not may_serve_students(load(folder, text).config)


def test_auto_tries_a_server(folder: Path) -> None:
    config = load(folder, edit("engine: vllm", "engine: auto", STUDY)).config
    assert may_serve_students(config)
    assert students_server_key(config) is None


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("rollouts: {engine: vllm}\n", "", "compute.vllm"),
        ("engine: vllm", "engine: sweeper", "compute.vllm"),
        ("engine: vllm", "engine: transformers", "compute.vllm"),
    ],
)
def test_keys_of_servers_that_nobody_asks_do_nothing(
    folder: Path, old: str, new: str, place: str
) -> None:
    [problem] = problems(folder, edit(old, new, STUDY))
    assert problem.path == place
    assert "has no effect without rollouts.engine: vllm or auto" in problem.message


@pytest.mark.parametrize(
    ("arms", "why"),
    [
        ("  gkd: {settings: {max_new_tokens: 48, lmbda: 0.0}}\n", "without an arm that samples"),
        ("", "without an arm that samples"),
        ("  gkd: {settings: {max_new_tokens: 48, engine: trl}}\n", "sample by themselves"),
    ],
)
def test_an_engine_without_on_policy_arms_does_nothing(folder: Path, arms: str, why: str) -> None:
    text = edit("  gkd: {settings: {max_new_tokens: 48}}\n", arms, STUDY)
    found = {problem.path: problem.message for problem in problems(folder, text)}
    assert why in found["rollouts.engine"]
    assert "has no effect" in found["rollouts.engine"]
    assert "has no effect" in found["compute.vllm"]


@pytest.mark.parametrize("engine", ["vLLM", "sglang", "null", "[vllm]", "1"])
def test_other_engines_are_not_known(folder: Path, engine: str) -> None:
    found = problems(folder, edit("engine: vllm", f"engine: {engine}", STUDY))
    assert found[0].path.startswith("rollouts.engine")


def test_a_searched_length_has_to_fit_too(folder: Path) -> None:
    searched = "gkd: {search: {max_new_tokens: {type: int, low: 8, high: 200}}}"
    text = edit("gkd: {settings: {max_new_tokens: 48}}", searched, STUDY)
    [problem] = problems(folder, text)
    assert problem.path == "compute.vllm.max_length"
    assert "expected more than 200 (arms.gkd.search.max_new_tokens), found 128" in problem.message


def test_a_study_with_servers_is_read(folder: Path) -> None:
    study = load(folder, STUDY).config
    assert (study.compute.vllm.max_length, study.compute.vllm.gpu_memory) == (128, 0.3)
    assert students_server_key(study) == ("rollouts", "engine")
    assert students_server_key(load(folder, SCORED).config) == ("evaluation", "engine")
