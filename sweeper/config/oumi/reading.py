"""From a recipe to the shape of a study; which key becomes what is in ``recipes.keys``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeper.config.base import short
from sweeper.config.extra import allowed, instead
from sweeper.config.oumi.keys import (
    DATASET_KWARGS_NOT_TAKEN,
    DATASET_NOT_TAKEN,
    DATASET_TAKEN,
    DEFAULTS,
    NOT_TAKEN,
    READ,
    SECTIONS,
    SETTINGS,
    TAKEN,
    KeyPath,
)
from sweeper.config.unknown_keys import likely_meant
from sweeper.config.yaml_file import YamlFile, read
from sweeper.foundation.errors import ConfigError, Problem

_DTYPES = {
    "float": "float32",
    "f32": "float32",
    "half": "float16",
    "f16": "float16",
    "bf16": "bfloat16",
}
"""Oumi's other names for data types."""
_QUANTISED = ("int8", "int4")
_MIXED = {"none": None, "bf16": "bf16", "fp16": "fp16"}
_READERS = ("text_sft", "text_sft_jsonl")
"""Oumi's classes for files of conversations; the file is ``dataset_path``."""


@dataclass
class Recipe:
    """What a recipe says of a study."""

    file: YamlFile
    values: dict[str, Any] = field(default_factory=dict)
    """Values in the shape of a study: ``teacher``, ``student``, ``data``, ``training``,
    ``seed``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the arm that the recipe becomes."""
    epochs: float | None = None
    """Epochs of the training, if it gives no steps."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises, if the recipe gives them."""
    notes: list[Problem] = field(default_factory=list)
    """Parts of the recipe that a study cannot express, or does not need; each with its place."""
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    """The recipe's keys, by those of the study that they became."""

    def blame(self, problem: Problem) -> Problem:
        """Return a problem of the study at the place in the recipe that it comes from."""
        parts = tuple(problem.path.split("."))
        if parts[0] == "arms" and parts[2:3] == (SETTINGS,):
            parts = parts[2:]
        for length in range(len(parts), 0, -1):
            if origin := self.origins.get(parts[:length]):
                return self.file.problem(origin, problem.message)
        return replace(problem, source=self.file.source)


def read_recipe(path: Path) -> Recipe:
    """Read an Oumi training configuration for GKD; parts may be missing.

    Raises:
        ConfigError: It is no such configuration; lists everything that is wrong.
    """
    recipe = Recipe(read(path))
    problems: list[Problem] = []
    leaves = dict(_leaves(recipe.file, recipe.file.values, (), problems))
    _check_trainer(recipe.file, leaves, problems)
    adapter = leaves.get("training.use_peft") is True
    for key, value in leaves.items():
        where = tuple(key.split("."))
        try:
            if key.startswith("peft.") and not adapter:
                message = "has no effect, because training.use_peft is not true"
                recipe.notes.append(recipe.file.problem(where, message))
            elif key in TAKEN:
                _take(recipe, TAKEN[key], where, value)
            elif key in READ:
                _read(recipe, key, where, value)
            elif key in NOT_TAKEN:
                _note(recipe, where, NOT_TAKEN[key])
            else:
                _note_unknown(recipe, where, [*TAKEN, *READ, *NOT_TAKEN, *SECTIONS])
        except ValueError as error:
            problems.append(recipe.file.problem(where, str(error)))
    if adapter:
        _put(recipe.values, ("student", "lora"), recipe.values.get("student", {}).get("lora", {}))
    for to, default in DEFAULTS.items():
        if to[:2] != ("student", "lora") or adapter:
            _put(recipe.values, to, default, keep=True)
    if problems:
        raise ConfigError(problems)
    return recipe


def _leaves(
    file: YamlFile, values: Mapping[Any, Any], path: KeyPath, problems: list[Problem]
) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        here = (*path, str(name))
        key = ".".join(here)
        if value is None and key != "training.max_grad_norm":
            continue  # Oumi's default, as if it were not there.
        if key not in SECTIONS:
            yield key, value
        elif isinstance(value, Mapping):
            yield from _leaves(file, value, here, problems)
        else:
            problems.append(file.problem(here, f"expected a mapping, found {short(value)}"))


def _check_trainer(file: YamlFile, leaves: Mapping[str, Any], problems: list[Problem]) -> None:
    trainer = leaves.get("training.trainer_type", "TRL_GKD")
    if str(trainer).upper() != "TRL_GKD":
        message = f"expected TRL_GKD, found {short(trainer)}: only GKD is turned into a study"
        problems.append(file.problem(("training", "trainer_type"), message))
    elif not any(key.startswith("training.gkd.") for key in leaves):
        message = (
            "expected the settings of GKD, found none: is this a training configuration of Oumi's?"
        )
        problems.append(file.problem(("training", "gkd"), message))


def _note(recipe: Recipe, where: KeyPath, reason: str) -> None:
    recipe.notes.append(recipe.file.problem(where, f"not taken over: {reason}"))


def _note_unknown(recipe: Recipe, where: KeyPath, known: list[str]) -> None:
    section = ".".join(where[:-1])
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    meant = likely_meant(where[-1], siblings)
    hint = f"; did you mean {meant!r}?" if meant else ""
    recipe.notes.append(recipe.file.problem(where, f"not taken over: unknown key{hint}"))


def _take(recipe: Recipe, to: KeyPath, where: KeyPath, value: Any) -> None:
    if to[-1] == "dtype":
        value = _DTYPES.get(value, value) if isinstance(value, str) else value
    elif to == ("training", "max_grad_norm") and value is None:
        value = 0.0
    elif to == ("training", "max_steps") and value == -1:
        return  # Oumi's way to say that epochs count.
    elif to == ("training", "checkpoint_every") and value == 0:
        return
    recipe.origins[to] = where
    if to[0] == SETTINGS:
        recipe.settings[to[1]] = value
    else:
        _put(recipe.values, to, value)


def _read(recipe: Recipe, key: str, where: KeyPath, value: Any) -> None:
    """Take over a key that is more than another name.

    Raises:
        ValueError: Its value cannot be understood.
    """
    if key == "data.train.datasets":
        _read_datasets(recipe, where, value)
    elif key == "training.gkd.teacher_model_init_kwargs":
        for name, argument in _mapping(value).items():
            _take_argument(recipe, "teacher", (*where, name), name, argument)
    elif key == "model.model_kwargs":
        for name, argument in _mapping(value).items():
            _take_argument(recipe, "student", (*where, name), name, argument)
    elif key == "model.chat_template_kwargs":
        for name, argument in _mapping(value).items():
            _take(recipe, ("data", "chat_template_kwargs", name), (*where, name), argument)
    elif key == "training.use_peft":
        _flag(value)
    elif key == "model.load_pretrained_weights":
        if not _flag(value):
            _take(recipe, ("student", "random_init"), where, True)
    elif key == "training.num_train_epochs":
        recipe.epochs = _number(value)
        recipe.origins.setdefault(("training", "max_steps"), where)
    elif key == "training.warmup_steps":
        recipe.warmup_steps = int(_number(value))
        recipe.origins[("training", "warmup_ratio")] = where
    elif key == "training.mixed_precision_dtype":
        if (name := str(value).lower()) not in _MIXED:
            raise ValueError(f"expected NONE, BF16 or FP16, found {short(value)}")
        if setting := _MIXED[name]:
            _take(recipe, ("training", setting), where, True)
    elif key == "training.trainer_kwargs":
        for name, argument in _mapping(value).items():
            if name == "max_length":
                _take(recipe, ("training", name), (*where, name), argument)
            elif name in allowed("gkd", "sweeper"):
                _take(recipe, ("training", "extra", name), (*where, name), argument)
            else:
                _note(recipe, (*where, name), instead(name) or "it has no effect here")
    elif key == "peft.q_lora" and _flag(value):
        bits = recipe.file.values["peft"].get("q_lora_bits", 4)
        _take(recipe, ("student", "quantization"), where, f"int{bits}")


def _take_argument(recipe: Recipe, role: str, where: KeyPath, name: str, value: Any) -> None:
    """Take over an argument of ``from_pretrained``, which may be a key of its own here."""
    if name in ("torch_dtype", "dtype"):
        if value in _QUANTISED:
            _take(recipe, (role, "quantization"), where, value)
        else:
            _take(recipe, (role, "dtype"), where, value)
    elif name in ("load_in_8bit", "load_in_4bit"):
        if _flag(value):
            _take(recipe, (role, "quantization"), where, f"int{name[8]}")
    elif name in ("revision", "trust_remote_code"):
        _take(recipe, (role, name), where, value)
    else:
        _take(recipe, (role, "init_kwargs", name), where, value)


def _read_datasets(recipe: Recipe, where: KeyPath, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise ValueError(f"expected a list of data sets, found {short(value)}")
    if not value:
        return
    if len(value) > 1:
        raise ValueError(f"expected one data set, found {len(value)}: put their rows into one file")
    entry, at = value[0], (*where, "0")
    arguments = _mapping(entry.get("dataset_kwargs") or {})
    name, to = entry.get("dataset_name"), ("data", "train")
    source = entry.get("dataset_path") or arguments.get("hf_dataset_path")
    if source is None and name not in (None, *_READERS):
        source = name
    if source is not None:
        named = "dataset_path" if entry.get("dataset_path") else "dataset_name"
        _take(recipe, (*to, "path"), (*at, named), source)
    columns = _columns(str(name), arguments)
    if columns:
        _take(recipe, (*to, "columns"), (*at, "dataset_kwargs"), columns)
    elif source == name:
        reason = "Oumi's class for this data set; its columns are guessed (data.train.columns)"
        _note(recipe, (*at, "dataset_name"), reason)
    for key, study_key in (("subset", "name"), ("split", "split"), ("sample_count", "limit")):
        if entry.get(key) is not None:
            _take(recipe, (*to, study_key), (*at, key), entry[key])
    for key in entry:
        if key in DATASET_NOT_TAKEN:
            _note(recipe, (*at, key), DATASET_NOT_TAKEN[key])
        elif key not in (*DATASET_TAKEN, "dataset_kwargs"):
            recipe.notes.append(recipe.file.problem((*at, key), "not taken over: unknown key"))
    used = {"hf_dataset_path"} | _COLUMN_ARGUMENTS if columns else {"hf_dataset_path"}
    for key in arguments:
        if key not in used:
            reason = DATASET_KWARGS_NOT_TAKEN.get(key, "it belongs to Oumi's class for this data")
            _note(recipe, (*at, "dataset_kwargs", key), reason)


_COLUMN_ARGUMENTS = {"prompt_column", "response_column", "messages_column"}


def _columns(reader: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return what the columns hold, by the class of Oumi's that reads them."""
    if reader == "PromptResponseDataset":
        named = {
            "prompt": ("prompt_column", "instruction"),
            "completion": ("response_column", "output"),
        }
    elif reader != "HuggingFaceDataset":
        return {}
    elif "prompt_column" in arguments:
        named = {"prompt": ("prompt_column", "prompt")}
    else:
        named = {"messages": ("messages_column", "messages")}
    found = {}
    for column, (argument, default) in named.items():
        found[column] = arguments.get(argument, default)
        if not isinstance(found[column], str):
            raise ValueError(f"expected a column's name, found {short(found[column])} ({argument})")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, found {short(value)}")
    return {str(name): inner for name, inner in value.items()}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31:
        raise ValueError(f"expected a number of at least 0, found {short(value)}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {short(value)}")
    return value


def _put(values: dict[str, Any], path: KeyPath, value: Any, *, keep: bool = False) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    if not keep or path[-1] not in values:
        values[path[-1]] = value
