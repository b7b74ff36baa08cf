"""The names and values that a study writes to a tracker: pure functions on records.

Names are made for comparing all trials of a study in one view, whatever their arm:

- parameters: ``gkd/lmbda``, ``gkd/beta``, ``gkd/temperature``, ``gkd/max_new_tokens``,
  ``gkd/seq_kd``, ``gkd/teacher_signal`` …; ``training/learning_rate`` …; ``study/arm``,
  ``study/method`` …; ``teacher/…``, ``student/…`` and ``lora/…``. A parameter that changes nothing
  in a trial is left out, so that no plot shows it as a cause.
- curves: ``train/loss``, ``train/on_policy_share`` …, ``seconds/rollout`` …
- results: ``score/selection``, ``score/<task>``; ``cost/steps``, ``cost/device_seconds`` …
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from sweeper.config.models import with_settings
from sweeper.config.remote_server import RemoteServer
from sweeper.config.settings import (
    GKD_KEYS,
    TRAINING_KEYS,
    Method,
    MethodSettings,
    without_effect,
)
from sweeper.config.unknown_keys import known_settings
from sweeper.foundation.secrets import redact, redacted
from sweeper.records import DataSummary, Outcome, StudyInputs, TrialSpec
from sweeper.records.study_record import Provenance

LONGEST_PARAM = 6000
"""Characters that MLflow keeps of a parameter's value."""
LONGEST_TAG = 8000
"""Characters that MLflow keeps of a tag's value."""
LONGEST_KEY = 250
"""Characters that MLflow allows in the name of a parameter, a metric or a tag."""

NOTE = "mlflow.note.content"
"""MLflow's tag for a run's description."""
RUN_NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"

Role = Literal["teacher", "starting_student"]


class Dataset(NamedTuple):
    """A data set as MLflow describes one."""

    name: str
    digest: str
    source_type: str
    source: str
    """Source as JSON."""
    profile: str
    """Profile as JSON."""


def valid_key(name: str) -> str:
    """Return ``name`` with every character that MLflow forbids in a key replaced by ``_``."""
    key = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    parts = [part if part.strip(".") else "_" for part in key.split("/")]
    return "/".join(parts)[:LONGEST_KEY]


def text_of(value: object, limit: int = LONGEST_PARAM) -> str:
    """Return ``value`` as MLflow stores it: YAML's spelling, no passwords, at most ``limit`` long.

    A longer text is cut, and a note at its end gives its length.
    """
    if isinstance(value, str):
        text = value
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, int | float):
        text = repr(value)
    else:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        text = json.dumps(value, default=str)
    text = redact(text)
    if len(text) <= limit:
        return text
    marker = f" … cut from {len(text)} characters"
    return text[: limit - len(marker)] + marker


def as_texts(values: Mapping[str, object], limit: int = LONGEST_PARAM) -> dict[str, str]:
    """Return ``values`` with keys and values as MLflow stores them."""
    return {valid_key(key): text_of(redacted(value, key), limit) for key, value in values.items()}


def as_tags(values: Mapping[str, object]) -> dict[str, str]:
    """Return ``values`` as tags, without those that are None."""
    return as_texts({k: v for k, v in values.items() if v is not None}, LONGEST_TAG)


def effective_settings(method: Method, settings: MethodSettings) -> dict[str, Any]:
    """Return the settings that change what a trial of ``method`` does, without mappings.

    ``supervised_kd`` is GKD at ``lmbda = 0`` and ``beta = 0``, and shows as that. One sampled token
    estimates the loss of ``beta = 1``, and shows as that.
    """
    values = settings.model_dump(exclude={"extra", "lr_scheduler_kwargs"})
    # How much is done at a time, and how often it is saved, changes no result.
    alive = (set(known_settings(method)) & set(values)) - {"checkpoint_every", "rollout_batch_size"}
    if method == "supervised_kd":
        values |= {"lmbda": 0.0, "beta": 0.0}
        alive |= {"lmbda", "beta"}
    if method != "gkd":
        alive.discard("stock_normalization")
    alive -= without_effect(method, values["lmbda"], settings.teacher_signal)
    if method == "gkd" and settings.teacher_signal == "sampled":
        values["beta"] = 1.0
        alive.add("beta")
    return {name: value for name, value in values.items() if name in alive}


def trial_params(spec: TrialSpec) -> dict[str, str]:
    """Return the parameters of one trial, in the order in which MLflow's pages offer them."""
    inputs = spec.origin
    settings = {
        _namespaced(name): value
        for name, value in effective_settings(spec.method, spec.settings).items()
    }
    values: dict[str, object] = {
        **{name: value for name, value in settings.items() if name.startswith("gkd/")},
        **{_namespaced(name): value for name, value in spec.params.items()},
        "study/arm": spec.arm,
        "study/method": spec.method,
        "study/seed": inputs.seed,
        "study/trial_seed": spec.seed,
        "study/suite": spec.suite.config.suite,
        "student/model": inputs.student.model,
        "student/dtype": inputs.student.dtype,
        **_scoring(inputs),
    }
    if inputs.rollout_engine != "sweeper":
        values["study/rollout_engine"] = inputs.rollout_engine
    if inputs.student.quantization is not None:
        values["student/quantization"] = inputs.student.quantization
    values |= settings
    for key in ("extra", "lr_scheduler_kwargs"):
        for name, value in getattr(spec.settings, key).items():
            values[f"training/{key}.{name}"] = value
    if spec.method != "sft":
        teacher = with_settings(inputs.teacher, spec.teacher, inputs.student.before_training())
        values["teacher/model"] = teacher.model
        if not isinstance(teacher.server, RemoteServer):
            values["teacher/dtype"] = teacher.dtype
        if teacher.server is not None:
            served = teacher.server.identity(teacher.model)
            values |= {f"teacher/server.{key}": value for key, value in served.items()}
        if teacher.quantization is not None:
            values["teacher/quantization"] = teacher.quantization
        for name, value in teacher.init_kwargs.items():
            values[f"teacher/init_kwargs.{name}"] = value
        for name, value in spec.teacher.items():
            values[f"teacher/{name}"] = value
    if inputs.student.lora is not None:
        for name, value in {**inputs.student.lora.model_dump(), **spec.lora}.items():
            values[f"lora/{name}"] = value
    return as_texts(values)


def _namespaced(name: str) -> str:
    if name.startswith(("teacher.", "lora.")):
        return name.replace(".", "/", 1)
    # Dropout is no parameter of GKD: every method turns it off or leaves it on.
    if name in GKD_KEYS and name != "disable_dropout":
        return f"gkd/{name}"
    if (
        name in TRAINING_KEYS
        or name == "disable_dropout"
        or name.startswith(("extra.", "lr_scheduler_kwargs."))
    ):
        return f"training/{name}"
    return f"study/{name}"


def arm_params(
    name: str, method: Method, settings: Mapping[str, Any], search: Mapping[str, Any]
) -> dict[str, str]:
    """Return what the study file fixes and searches in an arm; spaces are JSON."""
    values: dict[str, object] = {"study/arm": name, "study/method": method}
    values |= {f"settings/{key}": value for key, value in settings.items()}
    values |= {f"search/{key}": value for key, value in search.items()}
    return as_texts(values)


def study_params(inputs: StudyInputs, sampler: str) -> dict[str, str]:
    """Return the parameters that all arms share."""
    return as_texts(
        {
            "study/name": inputs.study,
            "study/seed": inputs.seed,
            "study/sampler": sampler,
            "study/selection_suite": inputs.evaluation.selection,
            "study/test_suite": inputs.evaluation.test,
            "study/data": inputs.data.train.path,
            "teacher/model": inputs.teacher.model,
            "student/model": inputs.student.model,
            **_scoring(inputs),
        }
    )


def _scoring(inputs: StudyInputs) -> dict[str, object]:
    """Return precision and engine of the scores, where the study does not have the defaults."""
    evaluation = inputs.evaluation
    found: dict[str, object] = {}
    if evaluation.dtype is not None:
        found["evaluation/dtype"] = evaluation.dtype
    if evaluation.engine != "transformers":
        found["evaluation/engine"] = evaluation.engine
    return found


def study_tags(inputs: StudyInputs, arms: Sequence[str], provenance: Provenance) -> dict[str, str]:
    """Return what reproduces a study, and a description for people."""
    note = (
        f"Distils `{inputs.teacher.model}` into `{inputs.student.model}` on "
        f"`{inputs.data.train.path}`; arms: {', '.join(arms)}.\n\n"
        f"    {provenance.command}\n\n"
        "One child run per arm, and below it one per trial. To compare the trials of all arms, "
        "search for `tags.\"sweeper.kind\" = 'trial'`."
    )
    hardware = {f"sweeper.hardware.{key}": value for key, value in provenance.hardware.items()}
    return as_tags(
        {
            NOTE: note,
            "mlflow.source.name": provenance.study_file,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": (provenance.git_revision or "").rstrip("+") or None,
            "sweeper.command": provenance.command,
            **code_tags(provenance),
            **hardware,
            **{f"sweeper.suite_hash.{k}": v for k, v in provenance.suite_hashes.items()},
        }
    )


def code_tags(provenance: Provenance) -> dict[str, str]:
    """Return the revision and the package versions, for every run of a study."""
    return as_tags(
        {"sweeper.git_revision": provenance.git_revision, **version_tags(provenance.versions)}
    )


def version_tags(versions: Mapping[str, str]) -> dict[str, str]:
    """Return package versions as tags."""
    return as_tags({f"sweeper.version.{name}": version for name, version in versions.items()})


def engine_tags(outcome: Outcome) -> dict[str, str]:
    """Return the tags of the engine that the preparation chose for a study's rollouts."""
    choice = outcome.engines
    if choice is None:
        return {}
    return as_tags(
        {"sweeper.rollout_engine": choice.chosen, "sweeper.rollout_engines": choice.told()}
    )


def trial_tags(spec: TrialSpec) -> dict[str, str]:
    """Return the tags of a trial that starts, or starts again."""
    sampled = ", ".join(f"{name} {text_of(value)}" for name, value in spec.params.items())
    name = f"{spec.arm} #{spec.number}"
    note = f"Trial {spec.number} of arm `{spec.arm}` ({spec.method}): "
    tags: dict[str, object] = {}
    if spec.enqueued is not None:
        tags = {"sweeper.start_with": spec.enqueued.source()}
    if (final := spec.final) is not None:
        name = f"{spec.arm} #{final.trial}, seed {final.seed}"
        name += "" if final.at == "steps" else f", equal {final.at.replace('_', ' ')}"
        note = f"Trial {final.trial} of arm `{spec.arm}` ({spec.method}), trained once more: "
        tags = {
            "sweeper.final_trial": final.trial,
            "sweeper.final_seed": final.seed,
            "sweeper.final_at": final.at,
        }
    return as_tags(
        {
            RUN_NAME: name,
            NOTE: f"{note}{sampled or 'nothing is searched'}.",
            **tags,
            "sweeper.method": spec.method,
            "sweeper.attempt": spec.attempt,
            "sweeper.state": "running",
            "sweeper.suite_hash": spec.suite.content_hash,
            "sweeper.directory": spec.place.directory,
        }
    )


def outcome_tags(spec: TrialSpec, outcome: Outcome) -> dict[str, str]:
    """Return the tags of how and where a trial ended."""
    failure = outcome.failure
    tags: dict[str, object] = {
        "sweeper.state": outcome.state,
        "sweeper.attempt": outcome.attempt,
        "sweeper.host": outcome.host or None,
        "sweeper.device": outcome.device or None,
        "sweeper.model_parameters": outcome.model_parameters,
        "sweeper.collapse": " ".join(sign.told() for sign in outcome.collapse) or None,
        "sweeper.warnings": " ".join(f"{note}." for note in outcome.notes) or None,
        **version_tags(outcome.versions),
    }
    if failure is not None:
        tags |= {"sweeper.failure_kind": failure.kind, "sweeper.failure": failure.told()}
        details = "\n".join(f"    {line}" for line in failure.details.splitlines()[-60:])
        note = trial_tags(spec)[NOTE]
        tags[NOTE] = f"{note}\n\nFailed ({failure.kind}): {failure.told()}\n\n{details}".rstrip()
    return as_tags(tags)


def dataset_of(summary: DataSummary) -> Dataset:
    """Return the training data as MLflow's data set: its source as name, its hash as digest."""
    local = summary.local
    shown = redact(summary.source)
    source = {"uri": shown} if local else {"path": shown}
    profile = summary.model_dump(include={"rows", "used", "prompt_tokens", "completion_tokens"})
    return Dataset(
        name=(Path(shown).name if local else shown)[:500] or "data",
        digest=summary.fingerprint[:36],
        source_type="local" if local else "hugging_face",
        source=json.dumps(source),
        profile=json.dumps(profile),
    )
