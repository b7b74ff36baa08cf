"""What ``sweeper check`` reports of a teacher that answers over a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sweeper.commands.check.models import (
    judgement_finding,
    server_finding,
    tokenizer_findings,
)
from sweeper.config.judgement import Judged, JudgedArm
from sweeper.config.lengths import LengthLimits
from sweeper.config.loading import load_study
from sweeper.config.models import ModelConfig
from sweeper.config.server import RemoteServer
from sweeper.config.started_server import StartedServer
from sweeper.records import TokenizerSummary
from sweeper.study.extreme_settings import extreme_settings, wanted

TEACHER = ModelConfig(model="large", server=RemoteServer(url="https://host/v1"))


def test_how_many_answers_a_server_is_asked_for() -> None:
    found = server_finding(TEACHER, 24, 48)
    assert found is not None and found.state == "ok"
    assert found.detail.startswith(
        "large answers at https://host/v1 to 24 rows of the data, in at most 48 tokens each, once."
        " It has no score"
    )
    unread = server_finding(TEACHER, None, 48)
    assert unread is not None and "to every row of the data" in unread.detail
    unused = server_finding(TEACHER, 24, None)
    assert unused is not None and "large answers at https://host/v1. It" in unused.detail
    hostile = TEACHER.model_copy(update={"model": "\x1b[2Jlarge"})
    escaped = server_finding(hostile, 24, 48)
    assert escaped is not None and escaped.detail.startswith("\\x1b[2Jlarge answers")
    assert server_finding(ModelConfig(model="large"), 24, 48) is None


def test_a_teacher_that_is_scored_through_its_server() -> None:
    found = server_finding(TEACHER, 24, None, scored_in="bfloat16")
    assert found is not None and found.detail.endswith(
        "It is scored through its server, in bfloat16, which is to run with --dtype bfloat16: that"
        " cannot be seen from here"
    )
    started = ModelConfig(model="large", server=StartedServer(start="vllm"))
    found = server_finding(started, 24, None, scored_in="float32")
    assert found is not None
    assert found.detail.endswith("It is scored through its server, in float32")


def test_a_teacher_of_text_may_have_any_tokenizer() -> None:
    summary = TokenizerSummary(
        tokens=300, logits=320, chat=True, template_note=None, ends=("<|im_end|>",)
    )
    shared, template, _ = tokenizer_findings(summary)
    assert "teacher and student share 300 tokens; 320 logits each" in shared.detail
    assert template.detail == "the student's, as the teacher's"
    own, template, _ = tokenizer_findings(summary, text=True)
    assert "which seqkd, alone among the methods, can train on across tokenizers" in own.detail
    assert template.detail == "the student's; the server renders the teacher's prompts"


def test_what_is_read_and_stored_of_its_judgement() -> None:
    limits = LengthLimits(longest=64, longest_key=("training", "max_length"))
    rollouts, data = JudgedArm(limits=limits), JudgedArm(limits=limits, sources=(False, True))

    def finding(
        k: int, *arms: JudgedArm, room: float = 20.0, positions: float | None = 2**27
    ) -> str:
        judged = Judged(top_k=k, top_k_key=("arms", "gkd"), arms=arms)
        found = judgement_finding(judged, positions, room)
        return f"{found.state}: {found.detail}. {found.advice}"

    assert finding(0, rollouts).startswith("ok: the token that stands there at each position")
    read = "ok: 16 tokens at most at each position, asked for while students train"
    assert finding(16, rollouts).startswith(f"{read}. ")
    once = f"{read}; that of the data's sequences once, before trials"
    assert finding(16, data, positions=None).startswith(f"{once}. ")
    own = JudgedArm(limits=limits, sources=(True,))
    assert finding(16, own).startswith(f"{once}. ")
    stored = f"{once}: about 16 GiB of the cache for the references"
    assert finding(16, rollouts, data).startswith(f"{stored}. ")
    much = finding(16, data, room=10.0)
    assert much.startswith(f"warning{stored.removeprefix('ok')}, more than compute.teacher_")
    assert "else every trial asks for it anew" in much


def test_no_trial_has_the_memory_of_a_served_teacher(write_study: Callable[..., Path]) -> None:
    arms = {"gkd": {"settings": {"lmbda": 1.0, "teacher_signal": "top_k"}}}
    loaded = load_study(write_study(arms=arms)).config
    server = {"url": "https://host/v1", "api": "vllm"}
    teacher = {"model": "builtin/adder-teacher", "server": server}
    served = load_study(write_study(arms=arms, teacher=teacher)).config
    assert [setup.teacher for setup in extreme_settings(loaded, "gkd")] == [loaded.teacher]
    assert [setup.teacher for setup in extreme_settings(served, "gkd")] == [None]
    assert all(request.model == served.student for request in wanted(served))
