"""Text that would do harm if it were not escaped, and a study that holds it."""

from __future__ import annotations

from sweeper.records.study_record import StudyRecord
from tests.support.example_study import arm, completed, failed, study, trial

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m\x7f\x00",
    "[bold red]x[/bold red][/]",
    "[/nothing]",
    "[link=http://evil]x[/link]",
    ":skull: text",
    "a | b | c",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "``` \n# Heading\n```",
    "`<b>` and ``<b>``",
    "[text](http://evil) ![i](http://evil)",
    "one\r\ntwo\u2028three",
    "\u202egnp.exe",
    "\ud800",
    "***",
]


def hostile_study(text: str) -> StudyRecord:
    trials = [
        trial(0, completed(0.5), **{"teacher.model": text, "learning_rate": 1e-3}),
        trial(1, failed("bad_input", text), **{"teacher.model": text}),
    ]
    config = {"teacher": {"model": text, "trust_remote_code": True}, "student": {"model": text}}
    return study([arm("gkd", trials)], config=config)
