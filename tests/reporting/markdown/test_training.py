"""What a study teaches about training well, in the report, the terminal and as JSON."""

from __future__ import annotations

import io
import json
import math
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sweeper.analysis.comparison import compare
from sweeper.analysis.training_lessons import TrainingLessons, training_lessons
from sweeper.analysis.verdict import verdict_of
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.console import show
from sweeper.reporting.markdown.training import (
    CURVES_IMAGE,
    ROLLOUTS_IMAGE,
    training_json,
    training_plots,
    training_sections,
    training_view,
)
from sweeper.reporting.plots.style import png
from tests.support.example_study import arm, completed, example_study, failed, study, trial
from tests.support.hostile_text import HOSTILE, hostile_study
from tests.support.practice_examples import final, sampled, teaching


def learned(record: StudyRecord) -> TrainingLessons:
    comparison = compare(record)
    return training_lessons(record, comparison, verdict_of(record, comparison.best_gkd))


def terminal(lessons: TrainingLessons, width: int) -> str:
    view = training_view(lessons)
    out = io.StringIO()
    if view is not None:
        show(view, Console(file=out, width=width))
    return out.getvalue()


def lower_is_better() -> StudyRecord:
    trials = [
        sampled(n, 0.9 - n / 20, lmbda=0.1 + n / 12, higher_is_better=False) for n in range(8)
    ]
    return study([arm("gkd", trials)], higher_is_better=False)


def odd_studies() -> dict[str, StudyRecord]:
    same = [sampled(n, 0.5, lmbda=0.5) for n in range(6)]
    bad = [trial(n, failed("bug", "x"), lmbda=0.1 * n) for n in range(6)]
    several = example_study().model_copy(
        update={"config": {**example_study().config, "objectives": ["score", "device_seconds"]}}
    )
    nan = trial(0, completed(0.5), lmbda=math.inf, learning_rate=math.nan)
    return {
        "no arms": study([]),
        "no trials": study([arm("gkd", []), arm("sft", [])]),
        "one trial": study([arm("gkd", [sampled(0, 0.5)])]),
        "equal scores": study([arm("gkd", same)]),
        "no gkd": study([arm("sft", [trial(0, completed(0.5))])], teacher=None, student=None),
        "only failures": study([arm("gkd", bad)]),
        "lower is better": lower_is_better(),
        "several objectives": several,
        "not finite": study([arm("gkd", [nan, trial(1, completed(math.nan))])]),
        "losses only": study(
            [
                arm("gkd", [trial(0, completed(0.5))]).model_copy(
                    update={"finals": (final("gkd", 0, [(1, 2.0, None), (2, 1.0, None)]),)}
                )
            ]
        ),
        "example": example_study(40),
        "teaching": teaching(),
    }


@pytest.mark.parametrize("name", odd_studies())
def test_every_study_can_be_shown(name: str) -> None:
    record = odd_studies()[name]
    lessons = learned(record)
    drawn = training_plots(lessons, compare(record))
    assert set(drawn) == {CURVES_IMAGE, ROLLOUTS_IMAGE}
    assert all(figure is None or png(figure) for figure in drawn.values())
    text = "\n\n".join(training_sections(lessons, {n for n, f in drawn.items() if f}))
    assert text.count("![") == sum(figure is not None for figure in drawn.values())
    assert all(cell_len(line) <= 80 for line in terminal(lessons, 80).splitlines())
    plain = json.loads(json.dumps(training_json(lessons), allow_nan=False))
    assert set(plain) == {
        "recommended",
        "advice",
        "open_advice",
        "failures",
        "rescored",
        "rollouts",
    }
    for shown in (text, terminal(lessons, 120)):
        # As a trial's own setting it stands there as YAML has it.
        assert not re.search(r"(?<!\.)\bnan\b|\bNone\b", shown)
    if name in ("no arms", "no trials"):
        assert not text and training_view(lessons) is None


def test_all_views_say_the_same() -> None:
    record = teaching()
    lessons = learned(record)
    plain = training_json(lessons)
    text = "\n\n".join(training_sections(lessons, set()))
    shown = " ".join(terminal(lessons, 80).split())
    assert plain["recommended"]["fragment"] in text + "\n"
    assert plain["recommended"]["narrowed_fragment"].strip() in text
    assert "recommended: method: gkd" in shown
    [failures] = plain["failures"]
    assert failures["trials"] == [24, 25, 26, 27, 28]
    assert failures["sentence"] in shown and "trials: diverged" in text
    assert "more than 20 % of the rollouts were cut" in shown
    told = {one["topic"]: one["judgement"] for one in plain["advice"]}
    assert told["lower_learning_rate"] == "confirmed" and set(told.values()) == {"confirmed"}
    assert "If training is unstable, lower the learning rate. Confirmed: median" in shown
    assert plain["open_advice"].startswith("Too few trials to test: temperature 0.7 to 0.9, no")
    assert plain["open_advice"] in shown and plain["open_advice"] in text
    assert "no dropout" in plain["open_advice"]
    assert "![" not in text


def test_secrets_are_in_no_view() -> None:
    token = "hf_" + "a1B2" * 6
    made = arm("gkd", [trial(0, completed(0.5))]).model_copy(
        update={"settings": {"teacher.init_kwargs.token": token, "lmbda": 0.5}}
    )
    lessons = learned(study([made]))
    everything = json.dumps(training_json(lessons)) + "".join(training_sections(lessons, set()))
    assert token not in everything + terminal(lessons, 120)
    assert "***" in everything


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text: str) -> None:
    lessons = learned(hostile_study(text))
    shown = terminal(lessons, 120)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", shown)
    report = "\n\n".join(training_sections(lessons, set()))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", report)
    outside: Any = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", report)
    assert "<" not in outside and not re.search(r"(?m)^# Heading", outside)
    json.dumps(training_json(lessons), allow_nan=False)
