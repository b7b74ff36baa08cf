"""The study file: everything that a user decides about a study."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sweeper.config.base import (
    Dtype,
    Fraction,
    JsonMapping,
    Name,
    PositiveFloat,
    PositiveInt,
    Problems,
    Strict,
    short,
)
from sweeper.config.settings import (
    METHODS,
    LearningRateSchedule,
    Method,
    TrainingConfig,
    collect_setting_problems,
    name_problem,
    value_problem,
    without_effect,
)
from sweeper.config.space import Space, contains
from sweeper.paths import RESERVED_NAMES

LARGEST_GRID = 10_000
"""Combinations of one arm's values."""


class ModelConfig(Strict):
    """A causal language model: a hub id, a directory, or `builtin/NAME`."""

    model: Annotated[str, Field(min_length=1)]
    """A hub id, a local directory, or `builtin/NAME`."""
    revision: str | None = None
    """The hub revision: a branch, tag or commit."""
    dtype: Dtype = "auto"
    """The type of the weights; `auto`: float32 on CPU and for a student that is trained whole
    (in bfloat16 small updates round away), else as stored."""
    init_kwargs: JsonMapping = {}
    """Further arguments of `from_pretrained`, such as `attn_implementation`."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models that you have read."""
    random_init: bool = False
    """Start from random weights drawn from the study's seed; only the configuration is read."""
    keep_layers: (
        Annotated[int, Field(ge=2)]
        | Annotated[
            tuple[Annotated[int, Field(ge=0)], ...],
            Field(min_length=1, json_schema_extra={"uniqueItems": True}),
        ]
        | None
    ) = None
    """For a student: leave out all other layers. A number of layers, evenly spread with the first
    and the last among them; or a list of layers, counted from 0."""

    @field_validator("keep_layers", mode="before")
    @classmethod
    def _check_layers(cls, keep: Any) -> Any:
        problems = Problems()
        if isinstance(keep, list | tuple):
            for index, layer in enumerate(keep):
                if not _is_count(layer, 0):
                    message = f"expected the number of a layer, from 0, found {short(layer)}"
                    problems.add((index,), message)
                elif layer in keep[:index]:
                    problems.add((index,), f"expected each layer once, found {short(layer)} again")
            if not keep:
                problems.add((), "expected at least one layer, found []")
        elif keep is not None and not _is_count(keep, 2):
            message = f"expected at least 2 layers, or a list of layers, found {short(keep)}"
            problems.add((), message)
        problems.raise_if_any()
        return tuple(sorted(keep)) if isinstance(keep, list | tuple) else keep

    @field_validator("init_kwargs", mode="after")
    @classmethod
    def _check_init_kwargs(cls, init_kwargs: dict[str, Any]) -> dict[str, Any]:
        problems = Problems()
        for name in ("dtype", "torch_dtype"):
            if name in init_kwargs:
                problems.add((name,), f"expected the key dtype beside model, found {name!r} here")
        problems.raise_if_any()
        return init_kwargs


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class LoraConfig(Strict):
    """Train a low-rank adapter instead of the whole student."""

    r: PositiveInt = 16
    """The rank."""
    alpha: PositiveFloat = 32.0
    """The scale; the adapter's output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input; `disable_dropout` turns it off."""
    target_modules: Annotated[tuple[str, ...], Field(strict=False)] | Literal["all-linear"] = (
        "all-linear"
    )
    """The modules that get an adapter."""


class StudentConfig(ModelConfig):
    """The student: a model, and how it is trained."""

    lora: LoraConfig | None = None
    """Train an adapter; by default all weights are trained."""


class WarmStartConfig(Strict):
    """Training that is done once, before the study: its result is where every arm starts."""

    method: Literal["sft", "seqkd"] = "sft"
    """`sft` on the references, or `seqkd` on the stored teacher outputs."""
    max_steps: PositiveInt
    """Optimiser steps."""
    learning_rate: PositiveFloat | None = None
    """By default the study's."""
    per_device_train_batch_size: PositiveInt | None = None
    """By default the study's."""
    lr_scheduler_type: LearningRateSchedule | None = None
    """By default the study's."""
    warmup_ratio: Fraction | None = None
    """By default the study's."""
    extra: dict[str, Any] = {}
    """Further arguments of TRL's `SFTConfig`, over the study's."""


class ColumnsConfig(Strict):
    """Which columns of the rows hold what."""

    prompt: str | None = None
    """The prompt's column."""
    completion: str | None = None
    """The reference answer's column; without one, only methods that need no references can run."""
    messages: str | None = None
    """A column of chat messages, the assistant's answer last; excludes the other two."""

    @model_validator(mode="after")
    def _check(self) -> ColumnsConfig:
        problems = Problems()
        if (self.prompt is None) == (self.messages is None):
            problems.add((), "expected either prompt (and completion) or messages")
        elif self.messages is not None and self.completion is not None:
            problems.add(("completion",), "expected no completion beside messages")
        problems.raise_if_any()
        return self


class DatasetConfig(Strict):
    """Rows to train on."""

    path: Annotated[str, Field(min_length=1)]
    """A hub id, a local json, jsonl, parquet or csv file, or `builtin/NAME`."""
    name: str | None = None
    """The hub dataset's configuration."""
    revision: str | None = None
    """The hub revision."""
    split: str = "train"
    """The split."""
    limit: PositiveInt | None = None
    """Use only the first so many rows."""
    columns: ColumnsConfig | None = None
    """Which columns hold what; guessed for `messages`, `prompt` and `completion`, and for
    `question` and `answer`."""


class DataConfig(Strict):
    """The data of a study."""

    train: DatasetConfig
    """The prompts, with or without reference answers, that every arm trains on."""
    system_prompt: str | None = None
    """A system message put before every prompt."""
    format: Literal["auto", "chat", "plain"] = "auto"
    """`chat` uses the student's chat template, `plain` joins prompt, completion and end token;
    `auto`: chat if there is a template."""


class TeacherOutputsConfig(Strict):
    """How the teacher answers the prompts, once per study, for sequence-level distillation."""

    max_new_tokens: PositiveInt = 256
    """The longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 decodes greedily; otherwise answers are sampled."""
    batch_size: PositiveInt = 32
    """Prompts answered at a time."""


class ArmConfig(Strict):
    """One side of the comparison: a method, what is fixed and what is searched."""

    method: Method
    """`sft`, `seqkd`, `supervised_kd` or `gkd`; by default the arm's name."""
    trials: PositiveInt | None = None
    """The trial budget; by default the study's `trials`. Unequal budgets are printed."""
    settings: dict[str, Any] = {}
    """Fixed values, over those of `training`."""
    search: dict[str, Space] = {}
    """What is sampled."""

    @field_validator("settings", mode="after")
    @classmethod
    def _check_settings(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if method := info.data.get("method"):
            problems = Problems()
            collect_setting_problems(problems, method, settings)
            problems.raise_if_any()
        return settings

    @field_validator("search", mode="after")
    @classmethod
    def _check_search(cls, search: dict[str, Space], info: ValidationInfo) -> dict[str, Space]:
        method = info.data.get("method")
        settings = info.data.get("settings", {})
        if not method:
            return search
        problems = Problems()
        for name, space in search.items():
            if message := name_problem(method, name, searched=True):
                problems.add((name,), message)
                continue
            for key, end in space.ends().items():
                if message := value_problem(name, end):
                    problems.add((name, *key), message)
            if name in settings:
                problems.add((name,), f"expected {name!r} in either settings or search, found both")
            elif name in without_effect(method, lmbda := settings.get("lmbda")):
                problems.add((name,), f"{name!r} has no effect at lmbda: {lmbda:g}")
        problems.raise_if_any()
        return search


class SamplerConfig(Strict):
    """How Optuna chooses the next trial of an arm."""

    type: Literal["tpe", "random", "grid", "gp"] = "tpe"
    """The sampler."""
    startup_trials: PositiveInt = 5
    """Random trials before `tpe` and `gp` begin to learn."""


class EvaluationConfig(Strict):
    """How students are scored."""

    selection: Annotated[str, Field(min_length=1)]
    """The suite that chooses among trials."""
    test: Annotated[str, Field(min_length=1)] | None = None
    """The suite kept for the finalists; the search never reads it."""
    batch_size: PositiveInt = 64
    """Documents scored at a time."""
    samples: Annotated[int, Field(ge=0)] = 8
    """Answers kept per trial for reading."""
    allow_code_execution: bool = False
    """Let lm-eval tasks run code that the model wrote."""


class ComputeConfig(Strict):
    """Where trials run."""

    executor: Literal["local"] = "local"
    """`local`: processes on this machine."""
    workers: PositiveInt = 1
    """Trials at a time; cores and devices are divided among them."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    """`auto`: the accelerators there are, in turn, or the CPU."""
    threads_per_worker: PositiveInt | None = None
    """By default the cores divided by the workers."""
    teacher_states_gib: Annotated[float, Field(ge=0)] = 20.0
    """What the teacher's hidden states on sequences that do not change may take in the cache, in
    GiB; the least recently used go first. 0: they are computed again in every trial."""


class TrackingConfig(Strict):
    """Where MLflow records the study."""

    uri: str | None = None
    """MLflow's tracking URI; by default the SQLite file `runs/mlflow.db`."""
    experiment: str | None = None
    """The experiment's name; by default the study's."""


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
    training: TrainingConfig = TrainingConfig()
    """How students are trained, in every arm."""
    arms: Annotated[dict[Name, ArmConfig], Field(min_length=1)]
    """What is compared, by name."""
    sampler: SamplerConfig = SamplerConfig()
    """How the search chooses."""
    evaluation: EvaluationConfig
    """How students are scored."""
    compute: ComputeConfig = ComputeConfig()
    """Where trials run."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the study is recorded."""

    @field_validator("study", mode="after")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            problems = Problems()
            problems.add((), f"expected another name: {name!r} is a file of the runs folder")
            problems.raise_if_any()
        return name

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

    @field_validator("sampler", mode="before")
    @classmethod
    def _short_sampler(cls, sampler: Any) -> Any:
        return {"type": sampler} if isinstance(sampler, str) else sampler

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        problems = Problems()
        if self.teacher.keep_layers is not None:
            message = "expected this key at the student: a teacher keeps all of its layers"
            problems.add(("teacher", "keep_layers"), message)
        for name, arm in self.arms.items():
            dotted = [key for key in (*arm.settings, *arm.search) if key.startswith("lora.")]
            if dotted and self.student.lora is None:
                where = "search" if dotted[0] in arm.search else "settings"
                message = "has no effect: the student has no lora"
                problems.add(("arms", name, where, dotted[0]), message)
            if self.sampler.type == "grid":
                self._check_grid(name, arm, problems)
            if self._needs_references(arm) and not self._has_references():
                message = (
                    "this arm trains on reference answers, but data.train.columns names no"
                    " completion (use seq_kd: true, lmbda: 1.0 or method seqkd)"
                )
                problems.add(("arms", name), message)
        warm = self.warm_start
        if warm is not None and warm.method == "sft" and not self._has_references():
            message = (
                "sft trains on reference answers, but data.train.columns names no completion"
                " (use seqkd)"
            )
            problems.add(("warm_start", "method"), message)
        problems.raise_if_any()
        return self

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

    @staticmethod
    def _needs_references(arm: ArmConfig) -> bool:
        if arm.method == "sft":
            return True
        if arm.method == "seqkd":
            return False
        space = arm.search.get("seq_kd")
        may_skip = contains(space, False) if space else not arm.settings.get("seq_kd", False)
        on_policy_only = arm.method == "gkd" and arm.settings.get("lmbda") == 1.0
        return may_skip and not on_policy_only

    def teacher_reads(self) -> tuple[bool, ...]:
        """What the teacher reads in many trials: references (False), its own answers (True)."""
        found: set[bool] = set()
        for arm in self.arms.values():
            fixed = {**self.training.model_dump(), **arm.settings}
            searched = arm.search.get("seq_kd")
            teacher = any(name.startswith("teacher.") for name in (*arm.settings, *arm.search))
            if arm.method not in ("supervised_kd", "gkd") or fixed["engine"] == "trl" or teacher:
                continue
            if fixed.get("lmbda") == 1:
                continue
            options = (False, True) if searched else (bool(fixed.get("seq_kd", False)),)
            found |= {own for own in options if not searched or contains(searched, own)}
        return tuple(sorted(found))

    def needs_teacher_outputs(self) -> bool:
        """Whether any arm, or the warm start, trains on the teacher's own answers."""

        def uses(arm: ArmConfig) -> bool:
            space = arm.search.get("seq_kd")
            sometimes = contains(space, True) if space else bool(arm.settings.get("seq_kd"))
            return arm.method == "seqkd" or sometimes

        warm = self.warm_start is not None and self.warm_start.method == "seqkd"
        return warm or any(uses(arm) for arm in self.arms.values())
