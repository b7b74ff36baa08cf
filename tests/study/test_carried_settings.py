"""What an earlier study's best trials were trained with, carried over to what an arm searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.config.base import Scalar
from sweeper.config.loading import load_study
from sweeper.config.settings import DOTTED, NOT_SEARCHABLE, TRAINING_KEYS, is_setting, resolve
from sweeper.config.study import StudyConfig
from sweeper.foundation.errors import ConfigError
from sweeper.records.archive import write_records
from sweeper.records.layout import StudyPaths
from sweeper.study.start_settings import start_settings
from tests.support.example_study import arm, completed, study, trial
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml

LMBDA = {"lmbda": {"type": "float", "low": 0.0, "high": 1.0}}
FIXED: dict[str, tuple[Scalar, Scalar]] = {
    "learning_rate": (3e-4, 1e-3),
    "max_steps": (7, 9),
    "num_train_epochs": (2.0, 3.0),
    "extra.neftune_noise_alpha": (5.0, 7.0),
    "lr_scheduler_kwargs.power": (2.0, 3.0),
    "lora.r": (8, 4),
    "lora.alpha": (16.0, 8.0),
    "lora.dropout": (0.1, 0.2),
    "lora.use_rslora": (True, False),
    "lora.use_dora": (True, False),
    "teacher.model": ("builtin/adder-student", "builtin/adder-teacher"),
    "teacher.dtype": ("bfloat16", "float32"),
    "teacher.quantization": ("int8", None),
    "teacher.init_kwargs.attn_implementation": ("eager", "sdpa"),
}
"""A value of each kind of setting that can be fixed at a study's keys, and another one."""


def keys(name: str, value: Scalar) -> dict[str, Any]:
    """The study with its setting fixed outside the arms."""
    values = adder_study()
    values["student"] = {**values["student"], "lora": {}}
    del values["training"]["max_steps"]
    values["training"] |= {"lr_scheduler_type": "polynomial"}
    *parents, key = name.split(".")
    block = values if parents and parents[0] == "teacher" else values["training"]
    block = values["student"] if parents == ["lora"] else block
    for parent in parents:
        block = block.setdefault(parent, {})
    block[key] = value
    return values


def carried(
    folder: Path,
    earlier: dict[str, Any],
    ours: dict[str, Any],
    search: dict[str, Any],
    *,
    fixed: dict[str, Any] | None = None,
    here: dict[str, Any] | None = None,
    recorded: dict[str, Any] | None = None,
    **params: Scalar,
) -> dict[str, Scalar]:
    """Settings that an arm starts with.

    ``fixed`` are the earlier arm's settings, ``here`` this one's; ``recorded`` is what the trial
    records otherwise than its study gives it.
    """
    for role, first in (("selection", 0), ("test", 50)):
        write_yaml(folder / f"{role}.yaml", adder_suite(role, first, first + 8))
    config = StudyConfig.model_validate(earlier)
    fixed = {"disable_dropout": False, **(fixed or {})}
    params = {"lmbda": 0.5, **params}
    done = trial(0, completed(0.5), **params)
    settings = resolve(config.training, fixed, params).model_dump(mode="json")
    done = done.model_copy(update={"settings": settings | (recorded or {})})
    arms = [arm("gkd", [done]).model_copy(update={"settings": fixed})]
    written = config.model_dump(mode="json", exclude_unset=True)
    write_records(
        study(arms, config=written).model_copy(update={"study": "pilot"}),
        folder / "records.json.gz",
    )
    ours["arms"] = {
        "gkd": {
            "settings": {"disable_dropout": False, **(here or {})},
            "search": {**LMBDA, **search},
            "start_with": {"study": "records.json.gz"},
        }
    }
    loaded = load_study(write_yaml(folder / "study.yaml", ours))
    [start] = start_settings(loaded, StudyPaths(folder / "runs", "tiny"))["gkd"]
    assert start.settings["lmbda"] == 0.5
    return {name: value for name, value in start.settings.items() if name != "lmbda"}


def among(*values: Scalar) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


def plain() -> dict[str, Any]:
    return keys("logging_steps", 2)


def test_every_kind_of_setting_is_tried() -> None:
    assert all(map(is_setting, FIXED))
    assert set(DOTTED) < set(FIXED)
    openings = {name.rpartition(".")[0] for name in set(FIXED) - set(DOTTED)} - {""}
    assert openings == {"extra", "lr_scheduler_kwargs", "teacher.init_kwargs"}
    assert not set(FIXED) & NOT_SEARCHABLE and set(FIXED) & TRAINING_KEYS


@pytest.mark.parametrize("name", FIXED)
def test_what_was_fixed_there_is_taken_wherever_it_was_fixed(tmp_path: Path, name: str) -> None:
    value, other = FIXED[name]
    search = {name: among(other, value)}
    assert carried(tmp_path, keys(name, value), plain(), search) == {name: value}
    # An arm's settings win over the study's keys.
    taken = carried(tmp_path, keys(name, other), plain(), search, fixed={name: value})
    assert taken == {name: value}
    prefix, _, key = name.rpartition(".")
    if prefix in ("extra", "lr_scheduler_kwargs"):
        fixed = {prefix: {key: value}}
        taken = carried(tmp_path, keys(name, other), plain(), search, fixed=fixed)
        assert taken == {name: value}


@pytest.mark.parametrize("name", FIXED)
def test_what_only_the_earlier_arm_searched_is_the_same_here(tmp_path: Path, name: str) -> None:
    value, other = FIXED[name]
    params = {name: value}
    assert carried(tmp_path, plain(), keys(name, value), {}, **params) == {}
    assert carried(tmp_path, plain(), keys(name, other), {}, here={name: value}, **params) == {}
    for ours in (plain(), keys(name, other)):
        with pytest.raises(ConfigError, match="search it, or fix it to the same value") as caught:
            carried(tmp_path, plain(), ours, {}, **params)
        assert f"#0 of arm gkd of pilot has {name}: " in str(caught.value)


@pytest.mark.parametrize(
    ("search", "there"),
    [
        ({"num_train_epochs": among(1.0, 2.0)}, {"max_steps": 7}),
        ({"max_steps": among(7, 9)}, {"num_train_epochs": 2.0}),
        ({"extra.neftune_noise_alpha": among(5.0, 7.0)}, {}),
        ({"lr_scheduler_kwargs.power": among(2.0, 3.0)}, {}),
        ({"teacher.init_kwargs.attn_implementation": among("eager", "sdpa")}, {}),
    ],
)
def test_what_had_no_value_there_is_sampled(
    tmp_path: Path, search: dict[str, Any], there: dict[str, Scalar]
) -> None:
    # A trial records the steps of its epochs.
    recorded = {"max_steps": 9} if "num_train_epochs" in there else {}
    assert carried(tmp_path, plain(), plain(), search, fixed=there, recorded=recorded) == {}


def test_a_student_without_an_adapter_gives_no_values_of_one(tmp_path: Path) -> None:
    earlier = plain()
    del earlier["student"]["lora"]
    assert carried(tmp_path, earlier, plain(), {"lora.r": among(4, 8)}) == {}


def test_the_start_as_teacher_is_taken_by_its_name(tmp_path: Path) -> None:
    earlier, fixed = plain(), {"teacher.model": "student"}
    search = {"teacher.model": among("student", "builtin/adder-teacher")}
    assert carried(tmp_path, earlier, plain(), search, fixed=fixed) == fixed
    # What is fixed of the study's teacher is not the start's.
    earlier["teacher"]["dtype"] = "bfloat16"
    search |= {"teacher.dtype": among("auto", "bfloat16")}
    taken = carried(tmp_path, earlier, plain(), search, fixed=fixed)
    assert taken == {**fixed, "teacher.dtype": "auto"}


def test_whole_numbers_are_taken_as_such(tmp_path: Path) -> None:
    space = {"lora.alpha": {"type": "int", "low": 8, "high": 64}}
    [alpha] = carried(tmp_path, plain(), plain(), space).values()
    assert (alpha, type(alpha)) == (32, int)


@pytest.mark.parametrize("given", [8, None])
def test_the_micro_batch_is_what_was_given_before_memory_ran_out(
    tmp_path: Path, given: int | None
) -> None:
    earlier = plain()
    del earlier["training"]["per_device_train_batch_size"]
    if given:
        earlier["training"]["per_device_train_batch_size"] = given
    recorded = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    search = {"per_device_train_batch_size": among(4, 8)}
    taken = carried(tmp_path, earlier, plain(), search, recorded=recorded)
    assert taken == {"per_device_train_batch_size": 8}


def test_models_that_this_version_cannot_read_are_refused(tmp_path: Path) -> None:
    earlier = plain()
    with pytest.raises(ConfigError, match="expected settings that this version knows"):
        carried(tmp_path, earlier, plain(), {}, recorded={"learning_rate": "fast"})
