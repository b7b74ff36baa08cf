"""The study file: everything that a user decides about a study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sweeper.config.arms import ArmConfig, untrained_teachers, values_of
from sweeper.config.base import (
    KeyPath,
    Name,
    PositiveFloat,
    PositiveInt,
    Problems,
    ScoringDtype,
    Strict,
)
from sweeper.config.collapse import CollapseConfig
from sweeper.config.compare import Pairs, pair_problems
from sweeper.config.compute import ComputeConfig
from sweeper.config.confirm import ConfirmConfig, CostMeasure
from sweeper.config.data import DataConfig, template_kwargs_problem
from sweeper.config.devices import copy_problems
from sweeper.config.evaluation import EvaluationConfig
from sweeper.config.models import START, ModelConfig, StudentConfig
from sweeper.config.names import is_reserved
from sweeper.config.preparation import TeacherOutputsConfig, WarmStartConfig
from sweeper.config.rollouts import RolloutsConfig
from sweeper.config.search import BudgetConfig, Objective, PrunerConfig, SamplerConfig
from sweeper.config.settings import METHODS, TrainingConfig
from sweeper.foundation.databases import comparable, storage_problem, tracking_problem

LARGEST_GRID = 10_000
"""Combinations of one arm's values."""


class TrackingConfig(Strict):
    """Where MLflow records the study."""

    uri: str | None = None
    """MLflow's tracking URI; by default the SQLite file `runs/mlflow.db`."""
    experiment: str | None = None
    """The experiment's name; by default the study's."""

    @field_validator("uri", mode="after")
    @classmethod
    def _check_uri(cls, uri: str | None) -> str | None:
        if uri is not None and (message := tracking_problem(uri)):
            problems = Problems()
            problems.add((), message)
            problems.raise_if_any()
        return uri


class StudyConfig(Strict):
    """A study: who teaches whom, on what data, in which arms, and how it is judged."""

    study: Name
    """The study's name, and that of its folder under `runs`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Everything random in the study follows from it."""
    trials: PositiveInt = 10
    """The trial budget of each arm that does not have its own."""
    teacher: ModelConfig
    """The teacher."""
    student: StudentConfig
    """The student."""
    warm_start: WarmStartConfig | None = None
    """Training before the study, the common start of all arms."""
    data: DataConfig
    """The data."""
    teacher_outputs: TeacherOutputsConfig = TeacherOutputsConfig()
    """The teacher's own answers, for `seqkd` and `seq_kd`."""
    rollouts: RolloutsConfig = RolloutsConfig()
    """Engine that samples students' rollouts, in every arm."""
    training: TrainingConfig = TrainingConfig()
    """Training settings of students, in every arm."""
    arms: Annotated[dict[Name, ArmConfig], Field(min_length=1)]
    """Arms that are compared, by name."""
    sampler: SamplerConfig = SamplerConfig()
    """Sampler that chooses the trials."""
    pruner: PrunerConfig = PrunerConfig()
    """Pruner that ends trials early that will not be the best."""
    objectives: Annotated[tuple[Objective, ...], Field(strict=False, min_length=1)] = ("score",)
    """Goals of the search. Several give a Pareto front, and `score` must be among them."""
    budget: BudgetConfig = BudgetConfig()
    """Limits that stop the search, next to its `trials`."""
    evaluation: EvaluationConfig
    """Suites that students are scored on."""
    collapse: CollapseConfig = CollapseConfig()
    """Watch over rollouts for known failures of on-policy training; `collapse: stop` ends trials
    that show one."""
    confirm: ConfirmConfig = ConfirmConfig()
    """Confirmation runs after the search, which show if its winners are better or were lucky."""
    compare: Pairs = None
    """Primary comparisons of the winners on the test suite, as pairs of arms: each is the first
    minus the second, and they are corrected together. One side may be `start` or `teacher`. By
    default the best `gkd` arm with each offline arm; in a study without both kinds, all pairs."""
    compare_at: Annotated[tuple[CostMeasure, ...], Field(strict=False, min_length=1)] = (
        "steps",
        "tokens",
        "device_seconds",
    )
    """Measures of cost at which the arms' winners are compared: `steps` as the search trained them;
    with `tokens` or `device_seconds` the cheaper winners of the primary comparisons are also
    trained for as many trained tokens, or seconds on their devices, as the most expensive one."""
    margin: PositiveFloat | None = None
    """The difference on the test suite that is too small to matter: arms are called equivalent if
    theirs is shown to be smaller."""
    compute: ComputeConfig = ComputeConfig()
    """Machines that trials run on."""
    storage: str | None = None
    """Database of Optuna's search: `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`; by
    default the SQLite file `runs/<study>/study.db`."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow store that the study is recorded in."""

    @field_validator("study", mode="after")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if is_reserved(name):
            problems = Problems()
            problems.add((), f"expected another name: {name!r} is a file of the runs folder")
            problems.raise_if_any()
        return name

    @field_validator("storage", mode="after")
    @classmethod
    def _check_storage(cls, storage: str | None) -> str | None:
        if storage is not None and (message := storage_problem(storage)):
            problems = Problems()
            problems.add((), message)
            problems.raise_if_any()
        return storage

    @field_validator("arms", mode="before")
    @classmethod
    def _name_methods(cls, arms: Any) -> Any:
        if not isinstance(arms, dict):
            return arms
        named = {}
        for name, arm in arms.items():
            if isinstance(arm, dict) and "method" not in arm and name in METHODS:
                arm = {"method": name, **arm}
            elif arm is None and name in METHODS:
                arm = {"method": name}
            named[name] = arm
        return named

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _short_type(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("collapse", mode="before")
    @classmethod
    def _short_action(cls, value: Any) -> Any:
        return value if isinstance(value, dict | CollapseConfig) else {"action": value}

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        problems = Problems()
        if self.teacher.keep_layers is not None:
            message = "expected this key at the student: a teacher keeps all of its layers"
            problems.add(("teacher", "keep_layers"), message)
        if self.student.compile:
            message = "expected this key at the teacher: a student's forward pass is not compiled"
            problems.add(("student", "compile"), message)
        if self.student.server is not None:
            message = "expected this key at the teacher: a student is trained, and so loaded"
            problems.add(("student", "server"), message)
        if self.student.chat_template_kwargs is not None:
            message = "expected the student's arguments as data.chat_template_kwargs"
            problems.add(("student", "chat_template_kwargs"), message)
        for key in self.teacher.chat_template_kwargs or {}:
            if reason := template_kwargs_problem(key):
                problems.add(("teacher", "chat_template_kwargs", key), reason)
        if self.data.format == "plain" and self.teacher.chat_template_kwargs is not None:
            message = "has no effect with data.format: plain"
            problems.add(("teacher", "chat_template_kwargs"), message)
        if self.data.assistant_turns == "all":
            for location, engine in self.values_of("engine"):
                if engine != "sweeper":
                    message = "expected sweeper with data.assistant_turns: all"
                    problems.add(location, message)
        folded: dict[str, str] = {}
        for name in self.arms:
            other = folded.setdefault(name.casefold(), name)
            if other != name:
                message = f"expected names that differ in more than case, found {other!r} too"
                problems.add(("arms", name), message)
        for name, arm in self.arms.items():
            dotted = [key for key in (*arm.settings, *arm.search) if key.startswith("lora.")]
            if dotted and self.student.lora is None:
                where = "search" if dotted[0] in arm.search else "settings"
                message = "has no effect: the student has no lora"
                problems.add(("arms", name, where, dotted[0]), message)
            if self.sampler.type == "grid":
                self._check_grid(name, arm, problems)
            if arm.uses_references() and not self._has_references():
                message = (
                    "this arm trains on reference answers, but data.train.columns names no"
                    " completion (use seq_kd: true, lmbda: 1.0 or method seqkd)"
                )
                problems.add(("arms", name), message)
        self._check_engines(problems)
        self._check_objectives(problems)
        if self.teacher.model == START:
            message = f"expected a model; only an arm can have {START!r}, its start, as teacher"
            problems.add(("teacher", "model"), message)
        if self.student.random_init and self.warm_start is None:
            for untrained, message in untrained_teachers(self.arms):
                problems.add(("arms", *untrained), message)
        for place, message in pair_problems(self.compare or (), self.arms):
            problems.add(("compare", *place), message)
        if self.compare and not self.confirms():
            message = "expected winners that are retrained and scored on a test suite: write"
            message += " evaluation: {test: SUITE} and confirm: {seeds: 5}, or leave this key out"
            problems.add(("compare",), message)
        if self.compute.devices_per_trial > 1:
            parts = (self.teacher, self.student, self.training, self.arms)
            for place, message in copy_problems(self.compute, *parts):
                problems.add(place, message)
        if len(set(self.compare_at)) < len(self.compare_at):
            problems.add(("compare_at",), "expected each measure once")
        if "steps" not in self.compare_at:
            problems.add(("compare_at",), "expected steps among the measures")
        uri = self.tracking.uri
        if self.storage and uri and comparable(self.storage) == comparable(uri):
            message = (
                "expected another database than tracking.uri's: Optuna and MLflow each have a table"
                " called alembic_version"
            )
            problems.add(("storage",), message)
        warm = self.warm_start
        if warm is not None and warm.method == "sft" and not self._has_references():
            message = (
                "sft trains on reference answers, but data.train.columns names no completion"
                " (use seqkd)"
            )
            problems.add(("warm_start", "method"), message)
        problems.raise_if_any()
        return self

    def _check_engines(self, problems: Problems) -> None:
        """Check that TRL's ``DistillationTrainer`` has nothing to train but its own rollouts."""
        name = "trl-distillation"
        message = f"expected another engine: {name} trains methods gkd at lmbda: 1 only"
        others = [
            arm
            for arm, config in self.arms.items()
            if "engine" not in config.settings and not config.is_on_policy_only()
        ]
        others += ["warm_start"] if self.warm_start is not None else []
        if self.training.engine == name and others:
            unfit = f"{message}, not {', '.join(others)}; write it at an arm"
            problems.add(("training", "engine"), unfit)
        for arm, config in self.arms.items():
            if config.settings.get("engine") == name and not config.is_on_policy_only():
                problems.add(("arms", arm, "settings", "engine"), f"{message}, not {arm}")

    def _check_objectives(self, problems: Problems) -> None:
        if "score" not in self.objectives:
            problems.add(("objectives",), "expected score among the objectives")
        if len(set(self.objectives)) < len(self.objectives):
            problems.add(("objectives",), "expected each objective once")
        several = len(self.objectives) > 1
        if several and self.pruner.type != "none":
            message = "expected none with several objectives: a pruner compares trials by one value"
            problems.add(("pruner",), message)
        if several and self.budget.patience is not None:
            message = "expected no patience with several objectives: there is no single best trial"
            problems.add(("budget", "patience"), message)

    def values_of(self, name: str) -> Iterator[tuple[KeyPath, Any]]:
        """Yield the values that a training setting may have in a trial, with their places."""
        return values_of(name, self.training, self.arms)

    @staticmethod
    def _check_grid(name: str, arm: ArmConfig, problems: Problems) -> None:
        size = 1
        for key, space in arm.search.items():
            count = space.count()
            if count is None:
                message = "expected a step or a list of choices, because the sampler is grid"
                problems.add(("arms", name, "search", key), message)
            size *= count or 1
        if size > LARGEST_GRID:
            message = f"expected a grid of at most {LARGEST_GRID} combinations, found {size}"
            problems.add(("arms", name, "search"), message)

    def _has_references(self) -> bool:
        columns = self.data.train.columns
        return columns is None or columns.messages is not None or columns.completion is not None

    def scoring_dtype(self) -> ScoringDtype:
        """Return the precision that every model is scored in, as ``evaluation.dtype`` has it."""
        if self.evaluation.dtype is not None:
            return self.evaluation.dtype
        for named in (self.student.dtype, self.teacher.dtype):
            if named != "auto":
                return named
        if self.training.bf16:
            return "bfloat16"
        return "float16" if self.training.fp16 else "float32"

    def confirms(self) -> bool:
        """Return True if winners are trained again after the search."""
        return self.evaluation.test is not None and self.confirm.seeds > 0

    def reference_users(self) -> tuple[str, ...]:
        """Return what trains on the reference answers: names of arms, and ``warm_start``."""
        warm = self.warm_start is not None and self.warm_start.method == "sft"
        return (
            *(name for name, arm in self.arms.items() if arm.uses_references()),
            *(["warm_start"] if warm else []),
        )

    def uses_references(self) -> bool:
        """Return True if an arm, or the warm start, trains on the reference answers."""
        return bool(self.reference_users())

    def uses_stock_engine(self) -> bool:
        """Return True if an arm runs a trainer of TRL's."""
        return any(engine != "sweeper" for _, engine in self.values_of("engine"))

    def needs_teacher_outputs(self) -> bool:
        """Return True if an arm, or the warm start, trains on the teacher's own answers."""
        warm = self.warm_start is not None and self.warm_start.method == "seqkd"
        return warm or any(True in arm.sources() for arm in self.arms.values())
