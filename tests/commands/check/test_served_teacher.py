"""What ``sweeper check`` reports of a teacher that answers over a server."""

from __future__ import annotations

from sweeper.commands.check.models import server_finding, tokenizer_findings
from sweeper.config.models import ModelConfig
from sweeper.config.server import RemoteServer
from sweeper.config.started_server import StartedServer
from sweeper.records import TokenizerSummary

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
