"""Comparisons that a study file declares, and teachers that its arms name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.own_teachers import own_teachers, teacher_uses
from sweeper.config.study import StudyConfig
from sweeper.foundation.errors import ConfigError
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml

ARMS = {
    "gkd": {"settings": {"max_new_tokens": 8}},
    "placebo": {"method": "gkd", "settings": {"teacher.model": "student", "seq_kd": True}},
    "sft": None,
}


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(adder_study(**{"arms": ARMS, "confirm": {}, **changes}))


def written(folder: Path, compare: str, **changes: Any) -> Path:
    """Write a study file whose line with ``compare`` is as given."""
    for name, first in (("selection", 0), ("test", 12)):
        write_yaml(folder / f"{name}.yaml", adder_suite(name, first, first + 12))
    study = adder_study(**{"arms": ARMS, "confirm": {"seeds": 3}, **changes})
    path = write_yaml(folder / "study.yaml", study)
    path.write_text(f"{path.read_text(encoding='utf-8')}\ncompare: {compare}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "pairs", [[["gkd", "sft"]], [["placebo", "gkd"], ["start", "gkd"], ["gkd", "teacher"]]]
)
def test_pairs_are_kept_in_their_order_and_direction(pairs: list[list[str]]) -> None:
    assert config(compare=pairs).compare == tuple(map(tuple, pairs))


@pytest.mark.parametrize(
    ("compare", "key", "message"),
    [
        ("gkd", "compare", "expected a list of pairs, as in [[gkd, sft]], found 'gkd'"),
        ("[]", "compare", "expected a list of pairs, as in [[gkd, sft]], found []"),
        ("[gkd, sft]", "compare.0", "expected a pair of names, as in [gkd, sft], found 'gkd'"),
        ("[[gkd]]", "compare.0", "expected a pair of names, as in [gkd, sft], found ['gkd']"),
        ("[[gkd, sft, placebo]]", "compare.0", "expected a pair of names"),
        ("[[gkd, 1]]", "compare.0", "expected a pair of names"),
        ("[[gkd, null]]", "compare.0", "expected a pair of names"),
        ("{gkd: sft}", "compare", "expected a list of pairs"),
        ("[[gkd, sfd]]", "compare.0.1", "found 'sfd'; did you mean 'sft'?"),
        ("[[nobody, sft]]", "compare.0.0", "expected one of gkd, placebo, sft, teacher, start"),
        ("[[gkd, gkd]]", "compare.0", "expected two different arms, found 'gkd' twice"),
        ("[[teacher, start]]", "compare.0", "expected at least one arm"),
        ("[[gkd, sft], [gkd, sft]]", "compare.1", "found [gkd, sft] again"),
        ("[[gkd, sft], [sft, gkd]]", "compare.1", "found [gkd, sft] reversed"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_line(
    tmp_path: Path, compare: str, key: str, message: str
) -> None:
    path = written(tmp_path, compare)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    problem = caught.value.problems[0]
    line = len(path.read_text(encoding="utf-8").splitlines())
    assert (problem.source, problem.line, problem.path) == (str(path), line, key)
    assert message in problem.message


@pytest.mark.parametrize("changes", [{"confirm": {"seeds": 0}}, {"evaluation": {"selection": "s"}}])
def test_comparisons_need_winners_that_are_confirmed(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="retrained and scored on a test suite"):
        config(compare=[["gkd", "sft"]], **changes)


def test_an_arm_called_like_a_baseline_is_not_guessed_at() -> None:
    arms = {**ARMS, "start": {"method": "seqkd"}}
    assert config(arms=arms, compare=[["gkd", "sft"]]).compare
    with pytest.raises(ValueError, match="'start' is an arm and also stands for"):
        config(arms=arms, compare=[["gkd", "start"]])


def test_the_start_is_a_teacher_of_arms_only_and_has_learnt_something() -> None:
    with pytest.raises(ValueError, match="only an arm can have 'student'"):
        config(teacher={"model": "student"})
    student = {"model": "builtin/adder-student", "random_init": True}
    assert config(student=student, warm_start={"max_steps": 1})
    with pytest.raises(ValueError, match="random weights"):
        config(student=student)


def test_trials_share_what_each_teacher_answers_and_reads() -> None:
    arms = {
        **ARMS,
        "again": {"method": "seqkd", "settings": {"teacher.model": "student"}},
        "rounded": {
            "method": "gkd",
            "search": {"teacher.quantization": {"type": "categorical", "choices": [None, "int8"]}},
        },
    }
    study = config(arms=arms)
    own = {"model": "student"}
    assert own_teachers(study) == {"placebo": own, "again": own}
    assert teacher_uses(study, own) == (True, (True,))
    assert teacher_uses(study, {}) == (False, (False,))
