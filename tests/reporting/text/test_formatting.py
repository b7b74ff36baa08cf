from __future__ import annotations

from typing import Any

import pytest

from sweeper.analysis.comparison import Score
from sweeper.reporting.text import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8312, "0.83"),
        (0.0, "0"),
        (1.0, "1"),
        (0.00123, "1.2e-3"),
        (1.0e-5, "1e-5"),
        (128, "128"),
        (128.4, "128"),
        (1234567.0, "1.2e6"),
        (True, "true"),
        (None, "none"),
        ("cosine", "cosine"),
        (-0.5, "-0.5"),
    ],
)
def test_values_are_short(value: Any, text: str) -> None:
    assert formatting.number(value) == text


def test_settings_are_one_line_with_the_usual_short_names() -> None:
    params = {"lmbda": 0.8312, "beta": 0.0, "learning_rate": 0.0012}

    assert formatting.settings(params) == "lmbda 0.83 · beta 0 · lr 1.2e-3"


@pytest.mark.parametrize(
    ("stderr", "digits"), [(0.016, 3), (0.13, 2), (0.00012, 5), (2.5, 1), (0.0, 3), (None, 3)]
)
def test_scores_show_two_digits_of_their_error(stderr: float | None, digits: int) -> None:
    assert formatting.score_digits([Score(score=0.5, stderr=stderr), None]) == digits


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (96_000, "96k"), (999_999, "1.0M"), (2.5e9, "2.5G")],
)
def test_counts_are_short(value: float, text: str) -> None:
    assert formatting.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (31.4, "31 s"),
        (59.7, "1 min"),
        (280.4, "4 min 40 s"),
        (3599.8, "1 h"),
        (7800, "2 h 10 min"),
        (86_399, "1 d"),
        (273_000, "3 d 4 h"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3, "a few seconds"),
        (41, "about 45 s"),
        (58, "about 1 min"),
        (170, "about 3 min"),
        (7700, "about 2 h 10 min"),
        (7200, "about 2 h"),
        (90_000, "about 1 d 1 h"),
    ],
)
def test_time_left_is_said_as_a_person_would(seconds: float, text: str) -> None:
    assert formatting.time_left(seconds) == text
