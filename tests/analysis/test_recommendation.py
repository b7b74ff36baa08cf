"""Which settings are recommended, and where to search on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sweeper.analysis.comparison import compare
from sweeper.analysis.narrowing import rounded
from sweeper.analysis.recommendation import Recommendation, recommend
from sweeper.analysis.verdict import judge
from sweeper.analysis.verdict_records import Verdict
from sweeper.config.loading import load_study
from sweeper.config.settings import Method
from sweeper.records.study_record import ConfirmedWinner, StudyRecord
from sweeper.reporting.markdown.training import fragment
from tests.support.confirmation_scores import scores, winner
from tests.support.example_study import arm, completed, study, trial
from tests.support.practice_examples import SEARCH, sampled, searching
from tests.support.tiny_studies import ROOT


def record_of(*arms: tuple[str, Method, float, float], **changes: Any) -> StudyRecord:
    """Arms with one trial each: name, method, score, device-seconds."""
    higher = changes.get("higher_is_better", True)
    return study(
        [
            arm(
                name,
                [trial(3, completed(score, seconds=seconds, higher_is_better=higher))],
                method=method,
            )
            for name, method, score, seconds in arms
        ],
        **changes,
    )


def recommended(record: StudyRecord, verdict: Verdict | None = None) -> Recommendation:
    found = recommend(record, compare(record), verdict)
    assert found is not None
    return found


def judged(*arms: tuple[str, Method, float, float], **changes: Any) -> Recommendation:
    """The same arms on the test suite."""
    finals: list[ConfirmedWinner] = [
        winner(name, method, score, of=index).model_copy(update={"device_seconds": seconds})
        for index, (name, method, score, seconds) in enumerate(arms, 1)
    ]
    verdict = judge(scores(*finals, **changes), ("steps",), None, best_gkd="gkd")
    return recommended(record_of(*arms), verdict)


def test_the_better_arm_is_recommended_whatever_it_costs() -> None:
    found = judged(("gkd", "gkd", 0.7, 90.0), ("sft", "sft", 0.4, 10.0))
    assert (found.arm, found.basis, found.beaten, found.rivals) == ("gkd", "test", ("sft",), ())


def test_an_arm_that_is_worse_is_not() -> None:
    found = judged(("gkd", "gkd", 0.4, 10.0), ("sft", "sft", 0.7, 90.0))
    assert (found.arm, found.beaten) == ("sft", ("gkd",))


def test_of_arms_that_cannot_be_told_apart_the_cheaper_is_recommended() -> None:
    found = judged(("gkd", "gkd", 0.7, 30.0), ("supervised_kd", "supervised_kd", 0.69, 12.0))
    assert found.arm == "supervised_kd"
    assert [rival.arm for rival in found.rivals] == ["gkd"]
    assert found.best.arm in ("gkd", "supervised_kd")


def test_a_tenth_of_the_price_is_no_reason() -> None:
    found = judged(("gkd", "gkd", 0.72, 12.5), ("supervised_kd", "supervised_kd", 0.68, 12.0))
    assert found.arm == found.best.arm


def test_arms_that_were_never_compared_are_not_called_alike() -> None:
    """However cheap one is."""
    arms: list[tuple[str, Method, float, float]] = [
        *(("good", "gkd", 0.8, 90.0), ("as good", "gkd", 0.82, 50.0)),
        *(("bad", "gkd", 0.3, 9.0), ("as bad", "gkd", 0.31, 8.0)),
    ]
    found = judged(*arms, compare=(("good", "as good"), ("bad", "as bad")))
    assert (found.arm, [rival.arm for rival in found.rivals]) == ("as good", ["good"])


def test_an_arm_that_is_worse_than_the_start_is_not() -> None:
    """Though it is cheap, and not told apart from a better one."""
    arms: list[tuple[str, Method, float, float]] = [
        *(("gkd", "gkd", 0.5, 9.0), ("sft", "sft", 0.58, 30.0)),
    ]
    pairs = (("gkd", "sft"), ("gkd", "start"), ("sft", "start"))
    assert judged(*arms, compare=pairs).arm == "gkd", "the start is always wrong"
    start = winner("start", "sft", 0.66, of=1, seeds=1).scores[0]
    found = judged(*arms, compare=pairs, starting_student=start)
    assert (found.arm, found.rivals) == ("sft", ())


def test_where_lower_is_better_the_lower_arm_wins() -> None:
    found = judged(("gkd", "gkd", 0.2, 90.0), ("sft", "sft", 0.6, 10.0), higher_is_better=False)
    assert found.arm == "gkd"


def test_without_a_verdict_the_search_says_what_it_can() -> None:
    clear = recommended(record_of(("gkd", "gkd", 0.8, 50.0), ("sft", "sft", 0.5, 10.0)))
    assert (clear.arm, clear.basis) == ("gkd", "selection")
    unclear = recommended(record_of(("gkd", "gkd", 0.81, 50.0), ("sft", "sft", 0.80, 10.0)))
    assert (unclear.arm, unclear.best.arm) == ("sft", "gkd")
    nothing = study([arm("gkd", [])])
    assert recommend(nothing, compare(nothing), None) is None


FLOAT = {"type": "float", "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("value", "space", "expected"),
    [
        (0.53219, FLOAT, 0.53),
        (0.99873, FLOAT, 0.999),
        (0.0004, FLOAT, 0.0004),
        (1.0, FLOAT, 1.0),
        (2.34567e-05, {**FLOAT, "low": 1e-6, "high": 1e-4, "log": True}, 2.3e-05),
        (1.0049e-06, {**FLOAT, "low": 1e-6, "high": 1e-4, "log": True}, 1.005e-06),
        (0.375, {**FLOAT, "step": 0.125}, 0.375),
        (123, {"type": "int", "low": 1, "high": 200}, 123),
        ("adamw_torch", {"type": "categorical", "choices": ["adamw_torch"]}, "adamw_torch"),
        (math.inf, FLOAT, math.inf),
        (0.53219, None, 0.53219),
    ],
)
def test_values_are_rounded_without_changing_what_they_mean(
    value: Any, space: Any, expected: Any
) -> None:
    assert rounded(value, space) == expected


def test_both_fragments_are_arms_of_a_study_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recommended(searching())
    assert found.narrowed is not None
    root = ROOT
    monkeypatch.chdir(root)
    yaml: Any = YAML(typ="safe", pure=True)
    whole = yaml.load((root / "studies" / "quickstart.yaml").read_text())
    for arms in (found.arms, found.narrowed):
        whole["arms"] |= yaml.load(fragment(arms))["arms"]
    path = tmp_path / "study.yaml"
    with path.open("w") as file:
        yaml.dump(whole, file)
    config = load_study(path).config
    assert config.arms["recommended"].method == "gkd"
    assert config.arms["recommended"].settings == found.settings
    assert found.settings["seq_kd"] is False
    narrow = config.arms["narrowed"].search
    lmbda, rate, beta = narrow["lmbda"], narrow["learning_rate"], narrow["beta"]
    assert lmbda.low < 0.7 < lmbda.high and lmbda.high - lmbda.low < 0.8  # type: ignore[union-attr]
    assert rate.low < 1e-3 < rate.high and rate.log  # type: ignore[union-attr]
    assert 1.0 not in beta.choices  # type: ignore[union-attr]
    assert config.arms["narrowed"].settings["weight_decay"] == 0.01


def test_a_name_that_is_taken_is_not_used_again() -> None:
    record = record_of(("Recommended", "gkd", 0.8, 5.0), ("recommended-2", "sft", 0.5, 5.0))
    assert list(recommended(record).arms) == ["recommended-3"]


def test_few_trials_narrow_nothing() -> None:
    trials = [sampled(n, 0.5 + n / 100, lmbda=0.5 + n / 100) for n in range(7)]
    record = study([arm("gkd", trials, search={"lmbda": SEARCH["lmbda"]})])
    assert recommended(record).narrowed is None
