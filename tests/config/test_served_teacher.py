"""A teacher over a server: what can be written, and what is refused at its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.config.judgement import Judged, TopK, judged, largest_top_k
from sweeper.config.remote_server import RemoteServer
from sweeper.config.study import StudyConfig
from sweeper.study.manifest import input_hashes
from tests.support.study_texts import edit, load, problems

STUDY = """\
study: tiny
teacher: {model: large, server: {url: "https://host/v1", api_key_env: KEY_OF_HOST}}
student: {model: builtin/adder-student}
data: {train: {path: builtin/addition, limit: 24}}
arms:
  seqkd: {}
  sft: {}
evaluation: {selection: selection.yaml, test: test.yaml}
"""
SERVER = '{url: "https://host/v1", api_key_env: KEY_OF_HOST}'


def test_a_study_with_a_teacher_elsewhere(folder: Path) -> None:
    (folder / "large").mkdir()
    study = load(folder, STUDY)
    server = study.config.teacher.server
    assert isinstance(server, RemoteServer)
    assert (server.api, server.concurrency, server.timeout, server.retry_for) == (
        "chat",
        8,
        600,
        600,
    )
    # Its name is no folder's, and no hub's.
    assert not any(name.startswith("teacher") for name in input_hashes(study))
    assert server.identity("large") == {
        "url": "https://host/v1",
        "api": "chat",
        "model": "large",
        "extra_body": {},
    }
    assert StudyConfig.model_validate_json(study.config.model_dump_json()) == study.config


def test_how_it_is_asked_is_no_part_of_what_is_asked() -> None:
    one = RemoteServer(url="https://host/v1/", timeout=5, retry_for=5, concurrency=1)
    other = RemoteServer(url="https://host/v1", api_key_env="KEY", model="m")
    assert one.identity("m") == other.identity("large")
    assert one.identity("m") != one.identity("n")


@pytest.mark.parametrize(
    ("server", "path", "message"),
    [
        ("{}", "url", "required, but missing"),
        ("{url: 5}", "url", "expected a string, found 5"),
        ("{url: host/v1}", "url", "an address such as https://host/v1, found 'host/v1'"),
        ("{url: 'ftp://host/v1'}", "url", "an address such as https://host/v1"),
        ("{url: 'https:///v1'}", "url", "an address such as https://host/v1"),
        ("{url: 'https://[::1/v1'}", "url", "an address such as https://host/v1"),
        ("{url: 'https://host:99999/v1'}", "url", "an address such as https://host/v1"),
        ("{url: 'https://host/v 1'}", "url", "without white space"),
        ("{url: 'https://me:geheim1@host/v1'}", "url", "no user or password in the address"),
        ("{url: 'https://geheim1@host/v1'}", "url", "no user or password in the address"),
        ("{url: 'https://host/v1?k=geheim1'}", "url", "no query in the address: write api_key_env"),
        ("{url: 'https://host/v1#geheim1'}", "url", "no query in the address"),
        (
            "{url: 'https://host/v1/chat/completions'}",
            "url",
            "the base address, 'https://host/v1', without /chat/completions",
        ),
        ("{url: 'http://host/v1', api_key_env: KEY}", "url", "expected https next to api_key_env"),
        ("{url: 'https://host', api_key_env: geheim1}", "api_key_env", "not the key itself"),
        ("{url: 'https://host', api_key_env: sk-geheim1}", "api_key_env", "not the key itself"),
        ("{url: 'https://host', api: responses}", "api", "'chat' or 'vllm'"),
        ("{url: 'https://host', concurrency: 0}", "concurrency", "greater than or equal to 1"),
        ("{url: 'https://host', timeout: soon}", "timeout", "expected seconds, or text such as"),
        ("{url: 'https://host', token: x}", "token", "expected one of url"),
        (
            "{url: 'https://host', extra_body: {temperature: 1}}",
            "extra_body.temperature",
            "'temperature' cannot be set here: it is teacher_outputs.temperature",
        ),
        (
            "{url: 'https://host', extra_body: {messages: null}}",
            "extra_body.messages",
            "'messages' cannot be set here",
        ),
    ],
)
def test_a_wrong_server(folder: Path, server: str, path: str, message: str) -> None:
    text = edit(SERVER, server, STUDY)
    [problem] = problems(folder, text)
    assert problem.path == f"teacher.server.{path}"
    assert message in problem.message
    assert problem.line == 2
    assert "geheim1" not in str(problem)


def test_a_server_on_this_machine_may_speak_http(folder: Path) -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        here = (
            f'{{url: "http://{host}/v1", api_key_env: KEY, extra_body: {{seed: null, top_p: 1}}}}'
        )
        server = load(folder, edit(SERVER, here, STUDY)).config.teacher.server
        assert server is not None and server.is_here


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        (
            "  sft: {}",
            "  gkd: {settings: {lmbda: 1.0}}",
            "arms.gkd",
            "expected method sft or seqkd, found gkd, which compares the student's distribution",
        ),
        ("  sft: {}", "  gkd: {settings: {teacher_signal: top_k}}", "arms.gkd", "(api: vllm)"),
        ("  sft: {}", "  supervised_kd: {}", "arms.supervised_kd", "found supervised_kd"),
        (
            "  seqkd: {}",
            "  seqkd: {settings: {teacher.model: small}}",
            "arms.seqkd.settings.teacher.model",
            "one teacher for all arms",
        ),
        (
            "  seqkd: {}",
            "  seqkd: {search: {teacher.dtype: {type: categorical, choices: [auto, float32]}}}",
            "arms.seqkd.search.teacher.dtype",
            "one teacher for all arms",
        ),
        *(
            ("model: large,", f"model: large, {key}: {value},", f"teacher.{key}", "has no effect")
            for key, value in {
                "dtype": "bfloat16",
                "quantization": "int8",
                "vocab_size": "100",
                "compile": "true",
                "random_init": "true",
                "revision": "main",
                "trust_remote_code": "true",
                "init_kwargs": "{device_map: auto}",
                "chat_template_kwargs": "{}",
            }.items()
        ),
        (
            "evaluation:",
            "teacher_outputs: {batch_size: 4}\nevaluation:",
            "teacher_outputs.batch_size",
            "its concurrency says how many are asked",
        ),
        (
            "evaluation:",
            "compare: [[seqkd, teacher]]\nconfirm: {seeds: 5}\nevaluation:",
            "compare.0",
            "a teacher that answers over a server has no score",
        ),
        (
            "evaluation:",
            "compute: {devices_per_trial: 2, shard_teacher: true}\nevaluation:",
            "compute.shard_teacher",
            "it has no weights",
        ),
        (
            "adder-student}",
            f"adder-student, server: {SERVER}}}",
            "student.server",
            "expected this key at the teacher",
        ),
    ],
)
def test_what_a_served_teacher_cannot_do(
    folder: Path, old: str, new: str, path: str, message: str
) -> None:
    [problem] = problems(folder, edit(old, new, STUDY))
    assert problem.path == path
    assert message in problem.message


def test_vllm_keeps_the_keys_of_the_tokenizer(folder: Path) -> None:
    keys = "revision: main, chat_template_kwargs: {}, init_kwargs: {token: x}"
    text = edit("model: large,", f"model: large, {keys},", STUDY)
    text = edit("host/v1", "host/v1', api: 'vllm".replace("'", '"'), text)
    assert load(folder, text).config.teacher.has_tokenizer()
    [problem] = problems(folder, edit("revision: main", "dtype: float16", text))
    assert problem.path == "teacher.dtype"


VLLM = edit(SERVER, '{url: "https://host/v1", api: vllm}', STUDY)
STARTED = edit(SERVER, "{start: vllm}", STUDY)
CHOICES = "{type: categorical, choices: [exact, top_k]}"
TOP_K = "settings: {lmbda: 1.0, teacher_signal: top_k}"


@pytest.mark.parametrize("study", [VLLM, STARTED], ids=["elsewhere", "started"])
@pytest.mark.parametrize(
    ("arm", "path", "message"),
    [
        ("gkd: {}", "arms.gkd", "expected teacher_signal: top_k, or sampled next to"),
        ("gkd: {}", "arms.gkd", "most likely tokens (teacher_top_k) and never all, found none"),
        ("supervised_kd: {}", "arms.supervised_kd", "expected teacher_signal: top_k next to"),
        (
            "gkd: {settings: {teacher_signal: exact}}",
            "arms.gkd.settings.teacher_signal",
            "never all, found exact",
        ),
        (
            f"gkd: {{search: {{teacher_signal: {CHOICES}}}}}",
            "arms.gkd.search.teacher_signal.choices.0",
            "never all, found exact",
        ),
        (
            "gkd: {settings: {engine: trl}}",
            "arms.gkd.settings.engine",
            "expected sweeper next to teacher.server, found trl",
        ),
        (
            "supervised_kd: {settings: {teacher_signal: sampled}}",
            "arms.supervised_kd.settings.teacher_signal",
            "expected exact or top_k in an arm of method supervised_kd",
        ),
        (
            "gkd: {settings: {teacher_signal: top_k, teacher.model: other}}",
            "arms.gkd.settings.teacher.model",
            "one teacher for all arms",
        ),
    ],
)
def test_what_a_served_teacher_cannot_judge(
    folder: Path, study: str, arm: str, path: str, message: str
) -> None:
    [problem] = problems(folder, edit("  sft: {}", f"  {arm}", study))
    assert problem.path == path
    assert message in problem.message


@pytest.mark.parametrize("study", [VLLM, STARTED], ids=["elsewhere", "started"])
@pytest.mark.parametrize(
    "arm",
    [
        f"gkd: {{{TOP_K}}}",
        "gkd: {settings: {lmbda: 1.0, teacher_signal: sampled}}",
        "gkd: {settings: {lmbda: 1.0}, search: {teacher_signal:"
        " {type: categorical, choices: [top_k, sampled]}}}",
        "supervised_kd: {settings: {teacher_signal: top_k, seq_kd: true}}",
    ],
)
def test_what_it_can_judge(folder: Path, study: str, arm: str) -> None:
    assert load(folder, edit("  sft: {}", f"  {arm}", study)).config.teacher.server is not None


def test_the_largest_top_k_of_a_study(folder: Path) -> None:
    def largest(arms: str) -> TopK | None:
        return largest_top_k(load(folder, edit("  sft: {}", arms, VLLM)).config)

    assert largest("  sft: {}") is None
    assert largest("  gkd: {settings: {lmbda: 1.0, teacher_signal: sampled}}") is None
    assert largest(f"  gkd: {{{TOP_K}}}") == (16, ("arms", "gkd"))
    searched = "search: {teacher_top_k: {type: int, low: 4, high: 64}}"
    arms = f"  gkd: {{{TOP_K}, {searched}}}\n  supervised_kd:"
    arms += " {settings: {teacher_signal: top_k, teacher_top_k: 32}}"
    assert largest(arms) == (64, ("arms", "gkd", "search", "teacher_top_k"))
    config = load(folder, edit("  sft: {}", arms, VLLM)).config
    found = judged(config)
    assert found is not None
    assert (found.top_k, found.top_k_key) == (64, ("arms", "gkd", "search", "teacher_top_k"))
    assert [arm.sources for arm in found.arms] == [(), (False,)]
    assert [arm.limits.sampled for arm in found.arms] == [128, None]
    assert Judged.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("limit", ["20", "null", "many", "true"])
def test_a_started_server_that_would_report_too_few(folder: Path, limit: str) -> None:
    arm = "gkd: {settings: {lmbda: 1.0, teacher_signal: top_k, teacher_top_k: 32}}"
    text = edit("{start: vllm}", f"{{start: vllm, options: {{max-logprobs: {limit}}}}}", STARTED)
    [problem] = problems(folder, edit("  sft: {}", f"  {arm}", text))
    assert problem.path == "teacher.server.options.max-logprobs"
    if limit != "null":
        named = "(teacher_top_k of arms.gkd.settings.teacher_top_k)"
        assert f"expected at least 32 {named}, or none, found" in problem.message
    for enough in ("32", "-1"):
        load(folder, edit("  sft: {}", f"  {arm}", edit(f" {limit}}}", f" {enough}}}", text)))


def test_a_short_server_needs_room_for_answers_only_where_there_are_any(folder: Path) -> None:
    text = edit("{start: vllm}", "{start: vllm, max_length: 128}", STARTED)
    [problem] = problems(folder, text)
    assert problem.path == "teacher.server.max_length"
    load(folder, edit("  seqkd: {}", f"  gkd: {{{TOP_K}}}", text))


def test_reported_numbers_are_log_probabilities(folder: Path) -> None:
    text = edit("{start: vllm}", "{start: vllm, options: {logprobs_mode: raw_logits}}", STARTED)
    [problem] = problems(folder, text)
    assert problem.path == "teacher.server.options.logprobs_mode"
    assert "log-probabilities are read as the model gives them" in problem.message
