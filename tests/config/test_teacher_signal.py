"""How much of the teacher a loss reads: what is taken, what is refused, what is not sampled."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.config.arms import ArmConfig
from sweeper.config.oumi.writing import write_recipe
from sweeper.config.settings import MethodSettings, effective
from sweeper.search.sampling import grid, left_open
from sweeper.tracking.mapping import effective_settings
from tests.support.study_texts import STUDY, load, problems

SIGNALS = "{type: categorical, choices: [exact, top_k]}"
ANY = "{type: categorical, choices: [exact, top_k, sampled]}"
RANK = "{type: int, low: 1, high: 16, log: true}"


def gkd(settings: str, search: str = "{}") -> str:
    return f"arms.gkd={{settings: {settings}, search: {search}}}"


@pytest.mark.parametrize(
    "override",
    [
        gkd("{teacher_signal: top_k}"),
        gkd("{teacher_signal: exact, beta: 0.1}"),
        gkd("{teacher_signal: top_k}", f"{{teacher_top_k: {RANK}}}"),
        gkd("{}", f"{{teacher_signal: {SIGNALS}, teacher_top_k: {RANK}}}"),
        gkd("{lmbda: 1.0, teacher_signal: sampled}"),
        gkd("{teacher_signal: sampled}", "{lmbda: {type: float, low: 1.0, high: 1.0}}"),
        gkd("{lmbda: 1.0, beta: 1.0, teacher_top_k: 4}", f"{{teacher_signal: {ANY}}}"),
        f"arms.supervised_kd={{search: {{teacher_signal: {SIGNALS}, teacher_top_k: {RANK}}}}}",
    ],
)
def test_signals_that_a_study_may_have(folder: Path, override: str) -> None:
    load(folder, STUDY, [override])


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        (gkd("{teacher_signal: topk}"), "settings.teacher_signal", "expected 'exact', 'top_k' or"),
        (gkd("{teacher_signal: top_k, teacher_top_k: 0}"), "settings.teacher_top_k", "found 0"),
        (gkd("{teacher_top_k: 4}"), "settings.teacher_top_k", "without teacher_signal: top_k"),
        (
            gkd("{teacher_signal: exact}", f"{{teacher_top_k: {RANK}}}"),
            "search.teacher_top_k",
            "has no effect without teacher_signal: top_k",
        ),
        (
            gkd("{lmbda: 1.0, teacher_signal: sampled, beta: 1.0}"),
            "settings.beta",
            "at teacher_signal: sampled, which estimates the loss of beta: 1: leave it out",
        ),
        (
            gkd("{teacher_signal: sampled}"),
            "settings.teacher_signal",
            "expected lmbda: 1.0 next to sampled, found no lmbda",
        ),
        (
            gkd("{teacher_signal: sampled, lmbda: 0.5}"),
            "settings.lmbda",
            "expected 1.0 with teacher_signal: sampled, found 0.5",
        ),
        (
            gkd("{}", f"{{teacher_signal: {ANY}, lmbda: {{type: float, low: 0.5, high: 1.0}}}}"),
            "search.lmbda.low",
            "found 0.5: one token estimates the divergence only where the student sampled it",
        ),
        (
            gkd("{teacher_signal: sampled, lmbda: 1.0, disable_dropout: false}"),
            "settings.disable_dropout",
            "expected true with teacher_signal: sampled: students sample without dropout",
        ),
        (
            gkd("{teacher_signal: sampled, lmbda: 1.0, extra.neftune_noise_alpha: 5}"),
            "settings.teacher_signal",
            "expected exact or top_k with neftune_noise_alpha",
        ),
        (
            gkd("{engine: trl, teacher_signal: top_k}"),
            "settings.teacher_signal",
            "has no effect with engine: trl",
        ),
        (
            gkd("{engine: trl-distillation, lmbda: 1.0, teacher_signal: sampled}"),
            "settings.teacher_signal",
            "has no effect with engine: trl-distillation",
        ),
    ],
)
def test_signals_that_are_refused_at_their_key(
    folder: Path, override: str, key: str, message: str
) -> None:
    [found] = problems(folder, STUDY, [override])
    assert found.path == f"arms.gkd.{key}" and message in found.message


@pytest.mark.parametrize(
    ("arm", "key", "message"),
    [
        ("sft", "settings.teacher_signal", "no effect in an arm of method sft"),
        ("seqkd", "settings.teacher_signal", "no effect in an arm of method seqkd"),
        ("supervised_kd", "settings.teacher_signal", "expected exact or top_k in an arm of method"),
    ],
)
def test_methods_that_sample_nothing_take_no_sampled_token(
    folder: Path, arm: str, key: str, message: str
) -> None:
    override = f"arms.{arm}={{settings: {{teacher_signal: sampled}}}}"
    [found] = problems(folder, STUDY, [override])
    assert found.path == f"arms.{arm}.{key}" and message in found.message


def arm(**search: object) -> ArmConfig:
    return ArmConfig.model_validate({"method": "gkd", "settings": {"lmbda": 1.0}, "search": search})


def choices(*values: object) -> dict[str, object]:
    return {"type": "categorical", "choices": list(values)}


def test_what_a_signal_leaves_without_effect_is_not_sampled() -> None:
    searched = arm(
        teacher_top_k=choices(2, 8),
        beta=choices(0.0, 1.0),
        teacher_signal=choices("sampled", "top_k", "exact"),
    )
    assert [dict(sorted(values.items())) for values in grid(searched)] == [
        {"teacher_signal": "sampled"},
        *(
            {"beta": beta, "teacher_signal": "top_k", "teacher_top_k": k}
            for k in (2, 8)
            for beta in (0.0, 1.0)
        ),
        *({"beta": beta, "teacher_signal": "exact"} for beta in (0.0, 1.0)),
    ]
    assert left_open(searched, {"teacher_signal": "exact"}) == ["beta"]


def test_given_settings_that_a_signal_leaves_without_effect(folder: Path) -> None:
    search = f"{{teacher_signal: {SIGNALS}, teacher_top_k: {RANK}}}"
    given = "{teacher_signal: exact, teacher_top_k: 4}"
    override = f"arms.gkd={{search: {search}, start_with: {given}}}"
    [found] = problems(folder, STUDY, [override])
    assert "has no effect at teacher_signal: 'exact'" in found.message
    override = f"arms.gkd={{search: {search}, start_with: {{teacher_top_k: 4}}}}"
    [found] = problems(folder, STUDY, [override])
    assert "expected teacher_signal next to it" in found.message


def test_a_sampled_token_stands_for_the_reverse_kl() -> None:
    settings = MethodSettings(lmbda=1.0, teacher_signal="sampled")
    assert effective("gkd", settings).beta == 1.0
    shown = effective_settings("gkd", settings)
    assert shown["beta"] == 1.0 and shown["teacher_signal"] == "sampled"
    assert "teacher_top_k" not in shown
    top = effective_settings("supervised_kd", MethodSettings(teacher_signal="top_k"))
    assert top["teacher_top_k"] == 16 and top["beta"] == 0.0
    assert "teacher_signal" not in effective_settings("seqkd", MethodSettings())


@pytest.mark.parametrize(
    ("override", "note"),
    [
        (gkd("{teacher_signal: top_k, teacher_top_k: 4}"), "teacher's 4 most likely tokens"),
        (gkd("{teacher_signal: sampled, lmbda: 1.0}"), "with beta: 1, which that estimates"),
    ],
)
def test_a_recipe_says_that_it_lacks_the_signal(folder: Path, override: str, note: str) -> None:
    values, unsaid = write_recipe(load(folder, STUDY, [override]).config, "gkd", {})
    assert any(note in each for each in unsaid)
    assert "teacher_signal" not in str(values)
    if "sampled" in override:
        assert values["training"]["gkd"]["beta"] == 1.0
