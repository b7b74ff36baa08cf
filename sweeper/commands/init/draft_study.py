"""The first version of a study: its search, its arms, and the keys that the user must complete."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweeper.commands.init.draft import Draft, Request, Values
from sweeper.commands.init.local_data import find_columns, hold_out, json_lines, pairs, read_rows
from sweeper.commands.init.suites import answer_tokens, held_out_files, placeholder_suites
from sweeper.config.base import short
from sweeper.config.columns import ColumnsConfig
from sweeper.config.device_defaults import device_defaults
from sweeper.config.loading import check, find_data, load_suite
from sweeper.config.names import is_name
from sweeper.config.oumi.keys import EPOCHS
from sweeper.config.oumi.reading import Recipe, read_recipe
from sweeper.config.placeholders import FILL_IN
from sweeper.config.study import StudyConfig
from sweeper.config.yaml_file import YamlFile
from sweeper.execution.devices import device_kinds, find_devices
from sweeper.foundation.data_folders import looks_local
from sweeper.foundation.errors import ConfigError, Problem

RECIPE_ARM = "gkd-recipe"
"""Name of the arm that a recipe becomes."""

_BATCH, _ACCUMULATION = 8, 4
_FEWEST_STEPS, _MOST_STEPS = 20, 2000


def draft_study(request: Request) -> Draft:
    """Draft a study of the teacher, student and data that are named.

    Raises:
        ConfigError: They cannot make a study.
    """
    draft = Draft(_head(request))
    draft.values["teacher"] = {"model": request.teacher}
    draft.values["student"] = {"model": request.student, "lora": {"r": 16, "alpha": 32}}
    draft.comments["student", "lora"] = "remove it to train all weights, at smaller learning rates"
    _add_data(draft, request, {})
    draft.values["training"] = {
        "max_steps": _steps(draft.rows, EPOCHS, _BATCH * _ACCUMULATION),
        "per_device_train_batch_size": _BATCH,
        "gradient_accumulation_steps": _ACCUMULATION,
        "learning_rate": 1.0e-4,
        "warmup_ratio": 0.1,
        "max_length": 1024,
    }
    draft.comments["training",] = "the same in every arm"
    if draft.rows is not None:
        draft.comments["training", "max_steps"] = f"about {EPOCHS} epochs of {draft.rows} rows"
    settings = {"max_new_tokens": draft.max_new_tokens}
    _add_arms(draft, settings, {}, draft.values["training"]["learning_rate"], (1.0e-5, 1.0e-3))
    _add_suites(draft, request)
    options = {"teacher": "--teacher", "student": "--student", "data": "--data"}
    _complete(draft, lambda p: Problem(options.get(p.path.split(".")[0], "init"), p.message))
    return draft


def draft_from_recipe(path: Path, request: Request) -> Draft:
    """Draft a study whose arm ``gkd-recipe`` is a recipe, next to a search and baselines.

    Raises:
        ConfigError: The file is no recipe, or has values that a study cannot have.
    """
    recipe = read_recipe(path)
    draft = Draft(_head(request), notes=list(recipe.notes))
    values = draft.values
    values["seed"] = recipe.values.get("seed", values["seed"])
    for role, named in (("teacher", request.teacher), ("student", request.student)):
        values[role] = {"model": None, **recipe.values.get(role, {})}
        values[role]["model"] = named or values[role]["model"]
        if values[role]["model"] is None:
            values[role]["model"] = f"{FILL_IN}-{role.upper()}"
            draft.comments[role, "model"] = f"{FILL_IN}: the recipe names none"
            draft.fill_in.append(f"{role}.model, which the recipe does not name (or use --{role})")
    data = recipe.values.get("data", {})
    _add_data(draft, request, data.get("train", {}), recipe)
    values["data"] |= {name: value for name, value in data.items() if name != "train"}
    training = values["training"] = dict(recipe.values.get("training", {}))
    _add_steps(draft, recipe, training)
    draft.comments["training",] = "the recipe's, the same in every arm"
    answers = {"max_new_tokens": 128, **recipe.settings}
    kept = ("max_new_tokens", "disable_dropout", "seq_kd")
    shared = {name: value for name, value in answers.items() if name in kept}
    fixed = {RECIPE_ARM: {"method": "gkd", "settings": dict(recipe.settings)}}
    draft.comments["arms", RECIPE_ARM] = "the recipe as it is"
    rate = training.get("learning_rate", 5.0e-5)
    ends = (1.0e-6, 1.0e-4)
    if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < math.inf:
        ends = (float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}"))
    else:
        rate = 1.0e-5  # What is wrong with it is reported at `training`.
    _add_arms(draft, shared, fixed, rate, ends)
    _add_suites(draft, request)
    _complete(draft, recipe.blame)
    return draft


def _head(request: Request) -> Values:
    name = request.output.stem
    if request.output.suffix not in (".yaml", ".yml") or not is_name(name):
        rule = "a file NAME.yaml with a name of letters, digits, '.', '_' and '-', at most 64"
        message = f"expected {rule}, found {short(str(request.output))}"
        raise ConfigError([Problem(source="--output", message=message)])
    return {"study": name, "seed": 0, "trials": 10}


def _add_data(
    draft: Draft, request: Request, train: Mapping[str, Any], recipe: Recipe | None = None
) -> None:
    """Add the data; hold out some rows of a local file with answers for the suites."""
    draft.comments["trials",] = "of each arm that searches"
    train = {"path": request.data} if request.data else dict(train)
    source = train.get("path")
    if source is None:
        train = {"path": f"{FILL_IN}-DATA", **train}
        draft.comments["data", "train", "path"] = (
            f"{FILL_IN}: a hub id, or a json, jsonl, parquet or csv file"
        )
        draft.fill_in.append("data.train.path, which the recipe does not name (or use --data)")
    elif isinstance(source, str) and (looks_local(source) or find_data(source, request.output)):
        _add_local_data(draft, request, train, recipe)
    draft.values["data"] = {"train": train}


def _add_local_data(draft: Draft, request: Request, train: Values, recipe: Recipe | None) -> None:
    named_by = Path(recipe.file.source) if recipe and not request.data else request.output
    path = find_data(train["path"], named_by)
    if path is None and recipe is not None and not request.data:
        named = f"the recipe names {short(train['path'])}, which is not there"
        place = recipe.blame(Problem("", named, "data.train.path"))
        train["path"] = f"{FILL_IN}-DATA"
        draft.comments["data", "train", "path"] = f"{FILL_IN}: {named}"
        draft.fill_in.append(f"data.train.path ({place.place}): {named} (or use --data)")
        return
    if path is None:
        message = f"expected a file or folder of rows, found no {short(train['path'])}"
        raise ConfigError([Problem(source="--data", message=message)])
    split = train.get("split", "train")
    local = read_rows(path, str(split), train.get("field"))
    limit = train.get("limit")
    if isinstance(limit, int) and _is_count(limit):
        local = local.first(limit)
    rows = local.rows
    if local.field is not None:
        train["field"] = local.field
    columns = ColumnsConfig(**train["columns"]) if "columns" in train else None
    columns = columns or find_columns(path, rows)
    train["columns"] = columns.model_dump(exclude_none=True)
    train["path"] = os.path.relpath(path, request.output.parent)
    draft.rows = len(rows)
    draft.references = columns.messages is not None or columns.completion is not None
    if columns.completion is None or isinstance(rows[0].get(str(columns.prompt)), list):
        return
    texts = pairs(path, local, columns)
    draft.max_new_tokens = answer_tokens([answer for _, answer in texts])
    if request.selection is not None:
        return
    if (held := hold_out(rows, texts)) is None:
        return
    task = draft.values["study"]
    draft.files = {"train.jsonl": json_lines(held.train), **held_out_files(task, held)}
    draft.rows = len(held.train)
    if _is_count(limit):
        del train["limit"]
    train.pop("field", None)
    train["path"] = f"{request.output.stem}/train.jsonl"
    draft.comments["data", "train", "path"] = f"{path.name} without what the suites score"


def _add_steps(draft: Draft, recipe: Recipe, training: Values) -> None:
    """Turn epochs into steps, and a warm-up in steps into a ratio."""
    defaults = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    sizes = [training.get(name, default) for name, default in defaults.items()]
    # Values that are no numbers are reported where all values are checked.
    window = math.prod(size if _is_count(size) else 1 for size in sizes)
    epochs = EPOCHS if recipe.epochs is None else recipe.epochs
    if "max_steps" not in training:
        steps = draft.rows and _exact_steps(draft.rows, epochs, window)
        training["max_steps"] = steps or 500
        why = f"{epochs:g} epochs of {draft.rows} rows"
        if not steps:
            why = f"{FILL_IN}: {epochs:g} epochs of the data, whose size is not known"
            draft.fill_in.append(f"training.max_steps: {epochs:g} epochs of your data")
        draft.comments["training", "max_steps"] = why
    if recipe.warmup_steps is not None and _is_count(total := training["max_steps"]):
        training["warmup_ratio"] = min(1.0, recipe.warmup_steps / total)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _exact_steps(rows: int, epochs: float, window: int) -> int:
    return max(1, round(epochs * -(-rows // max(1, window))))


def _steps(rows: int | None, epochs: int, window: int) -> int:
    if rows is None:
        return 500
    return min(_MOST_STEPS, max(_FEWEST_STEPS, _exact_steps(rows, epochs, window)))


def _add_arms(
    draft: Draft, settings: Values, fixed: Values, usual_rate: float, ends: tuple[float, float]
) -> None:
    """Add the searched GKD arm, the ``fixed`` ones, and the offline baselines.

    Every search starts with the usual settings, so that none has less to start with. The ranges
    follow the guide of Oumi's recipe for GKD.
    """
    low, high = ends
    rate = {"learning_rate": {"type": "float", "low": low, "high": high, "log": True}}
    start = {"learning_rate": usual_rate}
    offline = {"search": rate, "start_with": start}
    own = {} if draft.references else {"seq_kd": True}
    search = {
        "lmbda": {"type": "float", "low": 0.0, "high": 1.0},
        "beta": {"type": "categorical", "choices": [0.0, 0.1, 0.5, 0.9, 1.0]},
        "temperature": {"type": "float", "low": 0.1, "high": 1.0},
        **rate,
    }
    usual = {"lmbda": 0.5, "beta": 0.5, "temperature": 0.9, **start}
    gkd = {"settings": {**settings, **own}, "search": search, "start_with": usual}
    arms: Values = {"gkd": gkd}
    for name, arm in fixed.items():
        arms[name] = {**arm, "settings": {**arm["settings"], **own}}
    if draft.references:
        arms["sft"] = offline
    arms["seqkd"] = offline
    arms["supervised_kd"] = {**({"settings": own} if own else {}), **offline}
    draft.values["arms"] = arms
    if _is_count(longest := settings["max_new_tokens"]):
        draft.values["teacher_outputs"] = {"max_new_tokens": longest}
    where = ("arms", "gkd", "search")
    draft.comments |= {
        (*where, "lmbda"): "0: only the data; 0.5: balanced; 1: only what the student samples",
        (*where, "beta"): "0: KL(teacher||student); 0.5: symmetric; 1: KL(student||teacher)",
        (*where, "temperature"): "of sampling: low is focused, high diverse",
        ("arms", "gkd", "start_with"): "the usual settings are the first trial",
        ("arms", "gkd", "settings"): (
            "Answers that are cut teach a student never to finish: watch train/truncated_share."
        ),
        ("teacher_outputs",): "the teacher's answers for seqkd",
    }
    if not draft.references:
        draft.comments["arms",] = "the data have no answers, so the teacher's stand in for them"


def _add_suites(draft: Draft, request: Request) -> None:
    folder = request.output.stem
    evaluation = {}
    if draft.files or request.selection is None:
        evaluation = {role: f"{folder}/{role}.yaml" for role in ("selection", "test")}
    if not draft.files and request.selection is None:
        draft.files = placeholder_suites(draft.values["study"])
        draft.comments["evaluation",] = f"{FILL_IN}: what these two suites score"
        draft.fill_in.append(f"the tasks in {folder}/selection.yaml and {folder}/test.yaml")
    for role, path in (("selection", request.selection), ("test", request.test)):
        if path is not None:
            load_suite(path)
            evaluation[role] = os.path.relpath(path, request.output.parent)
    draft.values["evaluation"] = evaluation
    if "test" in evaluation:
        draft.values["confirm"] = {"seeds": 3}
        draft.comments["confirm",] = "winners are trained again with new seeds, and tested"


def _complete(draft: Draft, blame: Callable[[Problem], Problem]) -> None:
    """Check the values, and write out what the study would take from this machine's devices.

    Args:
        draft: The draft, complete but for that.
        blame: Returns the place where the user wrote a wrong value.

    Raises:
        ConfigError: The values cannot make a study.
    """
    try:
        config = check(StudyConfig, YamlFile(source="init", values=draft.values))
    except ConfigError as error:
        # A value that several arms share is reported once.
        raise ConfigError(list(dict.fromkeys(map(blame, error.problems)))) from None
    kinds = device_kinds(find_devices("auto"))
    if not all(kind.has_bfloat16 for kind in kinds):
        return  # the defaults of the keys hold; on other machines, those of their devices
    found = device_defaults(config, kinds)
    training = draft.values.setdefault("training", {})
    for key, value in found.training.items():
        training[key] = value
        draft.comments["training", key] = f"the default on {found.device}"
