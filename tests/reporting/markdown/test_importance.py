"""What the search taught, as plots, as text and as JSON."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from sweeper.analysis.comparison import compare
from sweeper.analysis.importance.importance import Importance, ImportanceShare
from sweeper.analysis.importance.lessons import SearchLessons, search_lessons
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.console import show
from sweeper.reporting.markdown.importance import (
    search_json,
    search_plots,
    search_sections,
    search_view,
)
from sweeper.reporting.plots.importance import importance_plot
from sweeper.reporting.plots.lmbda_beta import lmbda_beta_plot
from sweeper.reporting.plots.style import png
from tests.support.example_study import (
    GKD_SEARCH,
    LR,
    arm,
    completed,
    example_study,
    failed,
    study,
    trial,
)
from tests.support.hostile_text import HOSTILE
from tests.support.known_truth import known_arm

PLOTS = {"importance.png", "effects.png", "lmbda_beta.png"}


def _texts(figure: Figure | None) -> set[str]:
    assert figure is not None
    return {text.get_text() for text in figure.findobj(Text)}


def _shown(record: StudyRecord, lessons: SearchLessons, width: int) -> str:
    out = io.StringIO()
    view = search_view(compare(record), lessons)
    if view is not None:
        show(view, Console(file=out, width=width))
    return out.getvalue()


def _report(record: StudyRecord, lessons: SearchLessons) -> str:
    return "\n\n".join(search_sections(compare(record), lessons, PLOTS))


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    offline = [
        trial(n, completed(0.5 + n / 100), learning_rate=1e-4 * 100 ** (n / 19)) for n in range(20)
    ]
    default = arm("gkd-default", [trial(0, completed(0.4))], method="gkd")
    return study([known_arm(40), default, arm("sft", offline, search={"learning_rate": LR})])


@pytest.fixture(scope="module")
def lessons(record: StudyRecord) -> SearchLessons:
    return search_lessons(record)


def test_every_plot_is_drawn_and_the_same_each_time(
    record: StudyRecord, lessons: SearchLessons
) -> None:
    first, second = (search_plots(record, compare(record), lessons) for _ in range(2))

    assert set(first) == PLOTS
    for name, figure in first.items():
        other = second[name]
        assert figure is not None and other is not None
        assert png(figure) == png(other)


def test_effects_have_a_panel_for_each_setting(record: StudyRecord, lessons: SearchLessons) -> None:
    figure = search_plots(record, compare(record), lessons)["effects.png"]

    assert figure is not None
    assert [axes.get_xlabel() for axes in figure.axes].count("learning_rate") == 2
    assert {"lmbda", "beta", "temperature", "max_new_tokens"} <= _texts(figure)
    assert "not clear" in _texts(figure)


def test_the_report_says_what_matters_what_it_does_and_what_to_widen(
    record: StudyRecord, lessons: SearchLessons
) -> None:
    text = _report(record, lessons)

    headings = re.findall(r"(?m)^## (.*)$", text)
    assert headings == [
        "Which settings matter",
        "What each setting does",
        "The GKD settings",
        "Ranges to widen",
    ]
    assert set(re.findall(r"\]\((.*?)\)", text)) == PLOTS
    assert re.search(r"\| gkd \| `lmbda` \| \d+ % \(\d+–\d+\) \| 40 \|", text)
    assert re.search(r"- gkd, `lmbda`: best near 0\.\d+, worst near ", text)
    assert re.search(r"- gkd, no clear effect: .*temperature", text)
    assert "`learning_rate: {type: float, low: 0.0001, high: 0.1, log: true}`" in text


def test_a_plot_that_was_not_written_is_not_shown(
    record: StudyRecord, lessons: SearchLessons
) -> None:
    text = "\n".join(search_sections(compare(record), lessons, set()))

    assert "![" not in text and "## The GKD settings" not in text
    assert "## Which settings matter" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_says_it_in_a_few_lines(
    record: StudyRecord, lessons: SearchLessons, width: int
) -> None:
    lines = _shown(record, lessons, width).splitlines()

    assert max(map(len, lines)) <= width
    assert len(lines) <= 20
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert re.search(r"importance lmbda \d+ % \(\d+–\d+\) · ", text)
    assert "widen learning_rate: {type: float, low: 0.0001, high: 0.1, log: true}" in text
    assert "no clear effect" in text


def test_json_is_plain_and_finite(lessons: SearchLessons) -> None:
    plain = json.loads(json.dumps(search_json(lessons), allow_nan=False))

    assert set(plain) == {"importance", "effects", "exhausted_ranges"}
    lmbda = plain["importance"]["gkd"]["values"]["lmbda"]
    assert lmbda["low"] <= lmbda["share"] <= lmbda["high"]
    assert plain["effects"]["gkd"]["lmbda"]["clear"] is True
    assert plain["exhausted_ranges"]["sft"][0]["wider"]["high"] == 0.1


@pytest.mark.parametrize(
    "arms",
    [
        [],
        [arm("gkd", [], search=GKD_SEARCH)],
        [arm("gkd", [trial(0, completed(0.5), lmbda=0.5)], search=GKD_SEARCH)],
        [arm("gkd", [trial(n, failed(), lmbda=n / 9) for n in range(9)], search=GKD_SEARCH)],
        [arm("gkd", [trial(n, completed(0.5), beta=0.5) for n in range(9)], search=GKD_SEARCH)],
    ],
)
def test_nothing_to_say_is_nothing(arms: list[Any]) -> None:
    record = study(arms)
    lessons = search_lessons(record)

    assert set(search_plots(record, compare(record), lessons).values()) == {None}
    assert list(search_sections(compare(record), lessons, set())) == []
    assert search_view(compare(record), lessons) is None
    assert not any(search_json(lessons).values())


@pytest.mark.parametrize("text", [t for t in HOSTILE if "\ud800" not in t] + ["$x_{$", "你好"])
def test_hostile_names_and_values_are_shown_as_text(text: str) -> None:
    choices = [text, "other"]
    name = f"extra.{text}"
    trials = [
        trial(n, completed(0.1 * (n % 2) + n / 1e3), **{name: choices[n % 2], "lmbda": n / 12})
        for n in range(12)
    ]
    search = {name: {"type": "categorical", "choices": choices}, "lmbda": GKD_SEARCH["lmbda"]}
    record = study(
        [arm("gkd", trials, search={**search, "lmbda": {**LR, "low": 0.001, "high": 1}})]
    )
    lessons = search_lessons(record)

    shown = _shown(record, lessons, 200)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", shown)
    assert "skull" in shown or "skull" not in text
    report = _report(record, lessons)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", report)
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", report)
    assert not re.search(r"(?<!\\)<", outside.replace("&lt;", ""))
    assert len(re.findall(r"(?m)^#", report)) == len(re.findall(r"(?m)^## [WTR]", report))
    for figure in search_plots(record, compare(record), lessons).values():
        assert figure is None or png(figure)


def test_importance_has_a_panel_for_each_arm_and_shares_that_sum_to_a_hundred() -> None:
    third = ImportanceShare(share=1 / 3, low=0.2, high=0.5)
    one = Importance(
        arm="gkd",
        values={"lmbda": third, "beta": third, "learning_rate": third},
        trials=10,
        conditional={"temperature": ImportanceShare(share=0.2, low=0.1, high=0.3)},
        conditional_trials=8,
    )
    other = one.model_copy(update={"arm": "sft", "conditional": {}, "trials": 12})

    figure = importance_plot([one, other], compare(example_study()))

    assert figure is not None
    assert {"gkd (10 trials)", "sft (12 trials)", "20 %, in 8 trials"} <= _texts(figure)
    assert [text.get_text() for text in figure.axes[1].texts] == ["34 %", "33 %", "33 %"]
    assert "sum to 100 %" in figure.get_supxlabel()
    assert importance_plot([], compare(example_study())) is None


def test_the_map_needs_gkd_trials_that_differ() -> None:
    offline = study([arm("sft", [trial(0, completed(0.5)), trial(1, completed(0.6))])])
    assert lmbda_beta_plot(offline, compare(offline)) is None

    same = [trial(number, completed(number / 10), lmbda=0.5, beta=0.5) for number in range(3)]
    alike = study([arm("gkd", same, search=GKD_SEARCH)])
    assert lmbda_beta_plot(alike, compare(alike)) is None


def test_the_map_tells_searched_trials_from_fixed_settings_and_failures() -> None:
    record = example_study()

    texts = _texts(lmbda_beta_plot(record, compare(record)))
    assert {"searched", "fixed settings", "failed"} <= texts
    gkd = [arm for arm in compare(record).arms if arm.method == "gkd"]
    best = max(arm.best_score.score for arm in gkd if arm.best_score)
    assert f"best: {best:.3f}" in texts


def test_the_map_can_be_drawn_where_lower_is_better_and_beta_is_a_range() -> None:
    trials = [
        trial(number, completed(number / 10), lmbda=number / 10, beta=0.123 * number)
        for number in range(8)
    ]
    record = study([arm("gkd", trials, search=GKD_SEARCH)], higher_is_better=False)

    assert "selection score: addition-select (lower is better)" in _texts(
        lmbda_beta_plot(record, compare(record))
    )
