"""`--set` wins over the file, reaches every key, and names itself when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.loading import load_study
from sweeper.config.space import CategoricalSpace, FloatSpace
from sweeper.config.study import StudyConfig
from sweeper.foundation.errors import ConfigError, Problem

WriteStudy = Callable[..., Path]


def config(path: Path, *overrides: str) -> StudyConfig:
    return load_study(path, overrides).config


def problems(path: Path, *overrides: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    return caught.value.problems


def test_a_value_is_read_as_yaml_and_wins_over_the_file(write_study: WriteStudy) -> None:
    path = write_study()
    assert config(path).trials == 2
    changed = config(path, "trials=7", "training.learning_rate=5e-3", "data.system_prompt=a=b")
    assert changed.data.system_prompt == "a=b"
    assert changed.trials == 7
    assert changed.training.learning_rate == 5e-3
    assert config(path, "trials=7", "trials=9").trials == 9
    assert config(path, "student.init_kwargs.attn_implementation=eager").student.init_kwargs == {
        "attn_implementation": "eager"
    }
    assert config(path, "arms={sft: {}}").arms.keys() == {"sft"}
    assert config(path, "evaluation.test=").evaluation.test is None


def test_a_setting_may_have_dots_in_its_name(write_study: WriteStudy) -> None:
    changed = config(
        write_study(),
        "student.lora={r: 4}",
        "arms.gkd.settings.lora.r=8",
        "arms.gkd.settings.teacher.init_kwargs.use_cache=false",
        "arms.sft.settings.extra.neftune_noise_alpha=5.0",
        "arms.sft.search.lora.alpha={type: float, low: 8.0, high: 32.0}",
    )
    assert changed.arms["gkd"].settings == {
        "max_new_tokens": 8,
        "lora.r": 8,
        "teacher.init_kwargs.use_cache": False,
    }
    assert changed.arms["sft"].settings == {"extra.neftune_noise_alpha": 5.0}
    assert set(changed.arms["sft"].search) == {"learning_rate", "lora.alpha"}


def test_one_key_of_a_search_space_can_be_changed(write_study: WriteStudy) -> None:
    path = write_study(
        student={"model": "builtin/adder-student", "lora": {}},
        arms={
            "sft": {
                "settings": {"disable_dropout": False},
                "search": {"lora.dropout": {"type": "float", "low": 0.1, "high": 0.5}},
            }
        },
    )
    space = config(path, "arms.sft.search.lora.dropout.low=0.2").arms["sft"].search["lora.dropout"]
    assert space == FloatSpace(type="float", low=0.2, high=0.5)
    gkd = config(write_study(), "arms.gkd.search.beta.choices=[0.1, 0.2]").arms["gkd"]
    assert gkd.search["beta"] == CategoricalSpace(type="categorical", choices=(0.1, 0.2))


def test_an_arm_may_have_dots_in_its_name(write_study: WriteStudy) -> None:
    path = write_study(arms={"gkd-0.5": {"method": "gkd"}, "gkd-0": {"method": "gkd"}})
    changed = config(path, "arms.gkd-0.5.settings.beta=0.9", "arms.gkd-0.5.trials=3")
    assert changed.arms["gkd-0.5"].settings == {"beta": 0.9}
    assert changed.arms["gkd-0.5"].trials == 3
    assert changed.arms["gkd-0"].settings == {}


def test_an_override_changes_nothing_that_shares_an_anchor(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(arms={"PLACE": {}})
    text = path.read_text(encoding="utf-8")
    arms = "sft: &arm {settings: {max_steps: 3}}\n  seqkd: *arm"
    assert "PLACE: {}" in text
    path.write_text(text.replace("PLACE: {}", arms), encoding="utf-8")
    changed = config(path, "arms.sft.settings.max_steps=9")
    assert changed.arms["sft"].settings == {"max_steps": 9}
    assert changed.arms["seqkd"].settings == {"max_steps": 3}


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("trials", "", "expected KEY=VALUE"),
        ("=3", "", "expected KEY=VALUE"),
        ("arms..trials=3", "", "expected KEY=VALUE"),
        ("training.max_steps=[1", "", "not valid YAML"),
        ("training.max_steps={a: 1, a: 2}", "", "not valid YAML: found duplicate key"),
        ("seed.x=3", "", "expected a mapping at 'seed', found 3"),
        ("training.max_steps=many", "training.max_steps", "a whole number, found 'many'"),
        ("training.max_step=5", "training.max_step", "did you mean 'max_steps'"),
        ("training={max_steps: no}", "training.max_steps", "a whole number, found 'no'"),
        ("arms.gkd.settings=3", "arms.gkd.settings", "a mapping, found 3"),
        ("arms.gkd.settings.lambda=1", "arms.gkd.settings.lambda", "did you mean 'lmbda'"),
        ("arms.gkd.settings.lora.r=8", "arms.gkd.settings.lora.r", "student has no lora"),
        ("arms.gkd.search.beta.choices=[2.0]", "arms.gkd.search.beta.choices.0", "found 2.0"),
        ("evaluation.selection=nope.yaml", "evaluation.selection", "no file 'nope.yaml'"),
        ("data.train.path=nope.csv", "data.train.path", "no file 'nope.csv'"),
        ("compute.device=gpu", "compute.device", "found 'gpu'"),
    ],
)
def test_a_wrong_override_names_the_option_and_no_line(
    write_study: WriteStudy, override: str, path: str, message: str
) -> None:
    (problem,) = problems(write_study(), override)
    assert problem.source == f"--set {override}"
    assert (problem.line, problem.column) == (None, None)
    assert problem.path == path
    assert message in problem.message


def test_wrong_overrides_are_told_together(write_study: WriteStudy) -> None:
    sources = [p.source for p in problems(write_study(), "x", "seed.y=1", "trials=0")]
    assert sources == ["--set x", "--set seed.y=1", "--set trials=0"]
