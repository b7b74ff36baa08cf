"""Each argument that ``extra`` may name, each schedule and each optimiser changes a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.extra import allowed
from sweeper.config.loading import load_study
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.optimisation import OPTIMISERS, SCHEDULES, unread_by
from sweeper.config.settings import METHODS, Method
from sweeper.foundation.errors import ConfigError
from sweeper.records import Resources
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs, train

VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "neftune_noise_alpha": (50.0, {}),
    "optim_args": ("momentum=0.9", {"optim": "sgd", "learning_rate": 0.1}),
    "label_smoothing_factor": (0.5, {}),
    "loss_type": ("dft", {}),
    "packing": (True, {"max_length": 256}),
    "repetition_penalty": (5.0, {"max_new_tokens": 32}),
    "top_k": (1, {}),
    "top_p": (0.01, {}),
}
"""A value of each argument, and the settings that it needs."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    folder = tmp_path_factory.mktemp("extra")
    return Resources(directory=str(folder), device="cpu", threads=1)


def weights(place: Resources, method: Method, **settings: Any) -> torch.Tensor:
    """The weights after a training of two steps."""
    folder = Path(place.directory)
    values = {"max_steps": 2, "max_new_tokens": 4, "lmbda": 1.0, **settings}
    if values.get("engine", "sweeper") != "sweeper":
        for seed, role in enumerate(("student", "teacher")):
            if not (folder / role).exists():
                make_tiny(folder / role, seed=seed, spread=4.0)
        changes: dict[str, Any] = {
            "teacher": ModelConfig(model=str(folder / "teacher")),
            "student": StudentConfig(model=str(folder / "student")),
        }
    else:
        changes = {}
    model, _, _ = train(make_study_inputs(folder, **changes), place, method, **values)
    return torch.cat([part.detach().flatten() for part in model.parameters()])


def effect(place: Resources, method: Method, engine: str, name: str) -> bool:
    value, needed = VALUES[name]
    options = {"engine": engine, **needed}
    plain = weights(place, method, **options)
    assert torch.equal(weights(place, method, **options), plain), "otherwise nothing is shown"
    return not torch.equal(weights(place, method, **options, extra={name: value}), plain)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_arguments_of_the_own_engine_have_an_effect_in_every_method(
    place: Resources, method: Method
) -> None:
    for name in sorted(allowed(method, "sweeper")):
        assert effect(place, method, "sweeper", name), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "engine"), [("sft", "trl"), ("gkd", "trl"), ("gkd", "trl-distillation")]
)
def test_arguments_of_trl_have_an_effect(place: Resources, method: Method, engine: str) -> None:
    for name in sorted(allowed(method, engine)):
        assert effect(place, method, engine, name), name


SCHEDULE_VALUES: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.5},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.5},
    "warmup_stable_decay": {"num_decay_steps": 2},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains(tmp_path: Path, place: Resources, name: str) -> None:
    settings = {"lr_scheduler_type": name, "lr_scheduler_kwargs": SCHEDULE_VALUES.get(name, {})}
    _, _, points = train(
        make_study_inputs(tmp_path), place, "sft", warmup_ratio=0.25, max_steps=4, **settings
    )
    rates = [point["learning_rate"] for point in points]
    assert len(rates) == 4
    if "min_lr" in name:
        assert min(rates[1:]) > 0.49e-3


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_trains_on_a_cpu_and_is_its_own(place: Resources, name: str) -> None:
    pytest.importorskip("bitsandbytes")
    trained = weights(place, "sft", optim=name)
    assert trained.isfinite().all()
    assert not torch.equal(trained, _start(place.directory))


@cache
def _start(folder: str) -> torch.Tensor:
    place = Resources(directory=folder, device="cpu", threads=1)
    return weights(place, "sft", max_steps=1, learning_rate=1e-30)


NUMBERS: tuple[Any, ...] = (-1, 0, 1e-40, 0.5, 1, 2, 3, 1000, 1e20, 1e308, 10**400, True, "x", None)
SHAPED = {"warmup_type", "decay_type"}
BESIDE = {"nesterov": "momentum=0.9,", "dampening": "momentum=0.9,", "t_beta3": "beta1=0.5,"}


def trains_or_is_refused(
    write_study: Callable[..., Path], place: Resources, settings: dict[str, Any]
) -> bool:
    """Return whether the settings are taken; they then train to weights that are finite."""
    study = write_study(arms={"sft": {}}, training={"max_steps": 2, **settings})
    try:
        load_study(study)
    except ConfigError as error:
        assert all(problem.line is not None for problem in error.problems), settings
        return False
    assert weights(place, "sft", **settings).isfinite().all(), settings
    return True


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps are specified")
@pytest.mark.parametrize(
    ("schedule", "argument"), [(name, each) for name in SCHEDULES for each in SCHEDULES[name]]
)
def test_every_value_of_a_schedules_argument_trains_or_is_refused(
    write_study: Callable[..., Path], place: Resources, schedule: str, argument: str
) -> None:
    values = ("linear", "cosine", "1-sqrt", "x", 1, None) if argument in SHAPED else NUMBERS
    beside = {} if argument == "min_lr" else SCHEDULE_VALUES.get(schedule, {})
    beside = {"num_decay_steps": 1} if schedule == "warmup_stable_decay" else beside
    taken = [
        trains_or_is_refused(
            write_study,
            place,
            {
                "lr_scheduler_type": schedule,
                "lr_scheduler_kwargs": {**beside, argument: value},
                "warmup_ratio": share,
            },
        )
        for value in values
        for share in (0.0, 0.5, 1.0)
    ]
    assert any(taken) and not all(taken)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("optimiser", "argument"), [(name, each) for name in OPTIMISERS for each in OPTIMISERS[name]]
)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_every_value_of_an_optimisers_argument_trains_or_is_refused(
    write_study: Callable[..., Path], place: Resources, optimiser: str, argument: str
) -> None:
    pytest.importorskip("bitsandbytes")
    values = ("true", "false", "ture") if argument in ("nesterov", "centered") else NUMBERS
    taken = [
        trains_or_is_refused(
            write_study,
            place,
            {
                "optim": optimiser,
                "extra": {"optim_args": f"{BESIDE.get(argument, '')}{argument}={value}"},
            },
        )
        for value in values
    ]
    assert any(taken) and not all(taken)


@pytest.mark.soak
def test_every_noise_trains_or_is_refused(
    write_study: Callable[..., Path], place: Resources
) -> None:
    taken = [
        trains_or_is_refused(write_study, place, {"extra": {"neftune_noise_alpha": value}})
        for value in NUMBERS
    ]
    assert any(taken) and not all(taken)


@pytest.mark.soak
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_an_optimiser_reads_the_keys_that_are_not_refused_with_it(
    place: Resources, name: str
) -> None:
    pytest.importorskip("bitsandbytes")
    plain = weights(place, "sft", optim=name)
    keys = {"adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 0.1}
    unread = {
        key
        for key, value in keys.items()
        if torch.equal(weights(place, "sft", optim=name, **{key: value}), plain)
    }
    assert unread == unread_by([name])
    assert not torch.equal(weights(place, "sft", optim=name, weight_decay=0.5), plain)
