"""Effects and exhausted ranges of trials whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from sweeper.analysis.importance.effects import Effect, effects
from sweeper.analysis.importance.forest import fit_forests
from sweeper.analysis.importance.lessons import ArmLessons, search_lessons
from sweeper.analysis.importance.ranges import ExhaustedRange, exhausted_ranges
from sweeper.config.space import Space
from sweeper.records.study_record import ArmRecord
from tests.support.example_study import arm, completed, example_study, failed, study, trial
from tests.support.known_truth import SEARCH, known_arm


@pytest.fixture(scope="module")
def lessons() -> ArmLessons:
    (found,) = search_lessons(study([known_arm(120)])).arms
    return found


def _effect(lessons: ArmLessons, name: str) -> Effect:
    return next(effect for effect in lessons.effects if effect.name == name)


def _exhausted(record: ArmRecord, *, higher_is_better: bool = True) -> list[ExhaustedRange]:
    fitted = fit_forests(record)
    seen = effects(fitted, higher_is_better=higher_is_better)
    return exhausted_ranges(fitted, seen, higher_is_better=higher_is_better)


def test_the_best_region_of_a_setting_is_found_and_the_effect_is_clear(
    lessons: ArmLessons,
) -> None:
    lmbda, beta = _effect(lessons, "lmbda"), _effect(lessons, "beta")

    assert lmbda.clear and lmbda.best == pytest.approx(0.7, abs=0.15)
    assert lmbda.worst == pytest.approx(0.0, abs=0.1)
    assert lmbda.difference == pytest.approx(0.3, abs=0.08)
    assert beta.clear and beta.best == 0.0
    assert beta.values == (0.0, 0.1, 0.5, 0.9, 1.0)
    for effect in lessons.effects:
        for low, score, high in zip(effect.low, effect.scores, effect.high, strict=True):
            assert low <= score <= high


def test_what_has_no_effect_is_not_said_to_have_one() -> None:
    claims = [
        effect.name
        for seed in range(6)
        for effect in effects(fit_forests(known_arm(30, seed=seed)), higher_is_better=True)
        if effect.clear
    ]

    assert claims.count("lmbda") == 6
    assert claims.count("temperature") + claims.count("max_new_tokens") <= 1


def test_where_lower_is_better_the_same_region_is_best() -> None:
    seen = effects(fit_forests(known_arm(80, sign=-1.0)), higher_is_better=False)

    lmbda = next(effect for effect in seen if effect.name == "lmbda")
    assert lmbda.clear and lmbda.best == pytest.approx(0.7, abs=0.15)


def test_a_conditional_setting_has_its_effect_where_it_was_sampled() -> None:
    found = {
        e.name: e for e in effects(fit_forests(example_study().arms[0]), higher_is_better=True)
    }

    assert found["temperature"].conditional and not found["lmbda"].conditional
    assert found["temperature"].trials < found["lmbda"].trials


def test_only_the_exhausted_range_is_named_with_a_wider_one(lessons: ArmLessons) -> None:
    (one,) = (one for one in lessons.exhausted if one.wider)

    assert (one.name, one.end, one.limit) == ("learning_rate", "high", 1e-4)
    assert one.wider == {"type": "float", "low": 1e-6, "high": 1e-3, "log": True}


def test_no_range_is_exhausted_by_chance() -> None:
    search = {name: space for name, space in SEARCH.items() if name != "learning_rate"}
    for seed in range(4):
        assert _exhausted(known_arm(20, seed=seed, search=search)) == []


@pytest.mark.parametrize(
    ("name", "space", "wider"),
    [
        ("lmbda", {"type": "float", "low": 0.0, "high": 1.0}, None),
        ("lmbda", {"type": "float", "low": 0.0, "high": 0.8}, {"high": 1.0}),
        ("beta", {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1}, {"high": 0.7}),
        ("lmbda", {"type": "float", "low": 0.0, "high": 0.75, "step": 0.25}, {"high": 1.0}),
        ("temperature", {"type": "float", "low": 0.3, "high": 1.0}, {"high": 1.4}),
        ("lora.dropout", {"type": "float", "low": 0.0, "high": 0.9}, {"high": 0.95}),
        ("max_new_tokens", {"type": "int", "low": 16, "high": 64, "step": 16}, {"high": 96}),
        ("lora.r", {"type": "int", "low": 4, "high": 64, "log": True}, {"high": 256}),
        ("lora.r", {"type": "categorical", "choices": [32, 8, 16]}, {"choices": [32, 8, 16, 64]}),
        (
            "weight_decay",
            {"type": "categorical", "choices": [0.0, 0.1]},
            {"choices": [0.0, 0.1, 0.2]},
        ),
        ("beta", {"type": "categorical", "choices": [0.0, 0.5, 1.0]}, None),
    ],
)
def test_a_wider_range_is_one_that_the_setting_takes(
    name: str, space: dict[str, Any], wider: dict[str, Any] | None
) -> None:
    grid = TypeAdapter[Any](Space).validate_python(space).grid()
    values = sorted(grid) if grid and len(grid) < 30 else None
    trials = []
    for number in range(24):
        place = number / 23
        if values is None:
            value = space["low"] + place * (space["high"] - space["low"])
            value = round(value) if space["type"] == "int" else value
        else:
            value = values[min(int(place * len(values)), len(values) - 1)]
        score = place if values is None else values.index(value) / len(values) + place / 100
        trials.append(trial(number, completed(score), **{name: value}))

    (one,) = _exhausted(arm("gkd", trials, search={name: space}))

    assert one.end == "high"
    assert one.wider == (None if wider is None else {**space, **wider})
    if one.wider is not None:
        TypeAdapter[Any](Space).validate_python(one.wider)


def test_the_low_end_is_widened_downwards_but_not_to_zero() -> None:
    cases: list[tuple[str, dict[str, Any], float]] = [
        ("temperature", {"type": "float", "low": 0.3, "high": 1.0}, 0.15),
        ("learning_rate", {"type": "float", "low": 1e-5, "high": 1e-4, "log": True}, 3.2e-6),
        ("max_new_tokens", {"type": "int", "low": 16, "high": 256}, 8),
    ]
    for name, space, low in cases:
        trials = []
        for number in range(24):
            place = number / 23
            if space.get("log"):
                value = space["low"] * (space["high"] / space["low"]) ** place
            else:
                value = space["low"] + place * (space["high"] - space["low"])
            value = round(value) if space["type"] == "int" else value
            trials.append(trial(number, completed(-number), **{name: value}))

        (one,) = _exhausted(arm("gkd", trials, search={name: space}))

        assert one.end == "low" and one.wider == {**space, "low": low}


def test_the_same_record_teaches_the_same() -> None:
    record = study([known_arm(12)])

    assert search_lessons(record) == search_lessons(record)


def test_there_is_nothing_to_learn_from_nothing() -> None:
    space = {"lmbda": SEARCH["lmbda"]}
    one = [trial(0, completed(0.5), lmbda=0.5)]
    equal = [trial(n, completed(0.5), lmbda=n / 10) for n in range(9)]
    outside = [trial(n, completed(n / 10), lmbda=2.0) for n in range(9)]
    fail = [trial(n, failed(), lmbda=n / 10) for n in range(9)]
    for trials in ([], one, equal, outside, fail):
        assert search_lessons(study([arm("gkd", trials, search=space)])).arms == ()
    odd = {"lmbda": {"type": "nothing"}, "beta": {"type": "categorical", "choices": [0.5]}}
    assert search_lessons(study([known_arm(12, search=odd)])).arms == ()


def test_settings_that_are_no_numbers_have_effects_too() -> None:
    choices = ["linear", "cosine", None]
    trials = [
        trial(n, completed(0.1 * (n % 3) + n / 1e4), **{"extra.x": choices[n % 3]})
        for n in range(30)
    ]
    search = {"extra.x": {"type": "categorical", "choices": choices}}

    (found,) = search_lessons(study([arm("sft", trials, search=search)])).arms

    assert found.effects[0].best is None and found.effects[0].clear
    assert found.exhausted == ()
