"""Puts finished trials into a study without running them: into Optuna, MLflow and its files.

Copies of a trial that did run, each with parameters of its own. MLflow's artifacts are left out:
nothing reads them again.
"""

from __future__ import annotations

import json
import random
import shutil
from typing import Any

import optuna
import sqlalchemy

from benchmarks.idle_job import score_of, scores
from sweeper.records.layout import StudyPaths
from sweeper.records.seeds import derive_seed, trial_seed

ROWS = 20_000
"""Rows that are inserted at a time."""
_TABLES = ("params", "tags", "metrics", "latest_metrics")
"""Of MLflow, with a run's rows."""


def fill(paths: StudyPaths, arm: str, end: int, storage: str, tracking: str) -> None:
    """Add trials to ``arm`` up to the number ``end``, exclusive; its last trial is the template.

    Args:
        paths: The study's; nothing runs there now.
        arm: The arm's name.
        end: The number of the first trial that is left to run.
        storage: Optuna's database.
        tracking: MLflow's database.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=_study_name(storage), storage=storage)
    template = study.get_trials(deepcopy=False)[-1]
    first = template.number + 1
    values = {number: _params(template, number) for number in range(first, end)}
    spec = json.loads(paths.trial(arm, template.number).spec.read_text(encoding="utf-8"))
    for number, params in values.items():
        _copy_files(paths, arm, template.number, number, spec, params)
    study.add_trials([_copy_of(template, number, params) for number, params in values.items()])
    _fill_mlflow(tracking, arm, template.number, values)


def _study_name(storage: str) -> str:
    [name] = optuna.get_all_study_names(storage)
    return name


def _params(template: optuna.trial.FrozenTrial, number: int) -> dict[str, Any]:
    draw = random.Random(number)
    found: dict[str, Any] = {}
    for name, space in template.distributions.items():
        if isinstance(space, optuna.distributions.CategoricalDistribution):
            found[name] = draw.choice(space.choices)
        elif isinstance(space, optuna.distributions.IntDistribution):
            found[name] = draw.randrange(space.low, space.high + 1, space.step)
        elif isinstance(space, optuna.distributions.FloatDistribution):
            low = space.low
            share = draw.random()
            wide = space.high - low
            found[name] = low * (space.high / low) ** share if space.log else low + share * wide
    return found


def _value(number: int, params: dict[str, Any]) -> float:
    return score_of(params, derive_seed(0, number))


def _copy_of(
    template: optuna.trial.FrozenTrial, number: int, params: dict[str, Any]
) -> optuna.trial.FrozenTrial:
    attributes = {
        name: json.dumps(params) if name.startswith("tpe:relative_params") else value
        for name, value in template.system_attrs.items()
    }
    made = optuna.trial.create_trial(
        params=params,
        distributions=template.distributions,
        value=_value(number, params),
        system_attrs=attributes,
        user_attrs=template.user_attrs,
    )
    made.datetime_start, made.datetime_complete = (
        template.datetime_start,
        template.datetime_complete,
    )
    return made


def _copy_files(
    paths: StudyPaths,
    arm: str,
    template: int,
    number: int,
    spec: dict[str, Any],
    params: dict[str, Any],
) -> None:
    source, made = paths.trial(arm, template), paths.trial(arm, number)
    made.directory.mkdir()
    for file in (source.progress, source.documents, source.samples, source.log, source.lock):
        shutil.copyfile(file, made.directory / file.name)
    spec = {
        **spec,
        "number": number,
        "seed": trial_seed(1, arm, number),
        "params": params,
        "settings": {**spec["settings"], **params},
        "place": {**spec["place"], "directory": str(made.directory)},
    }
    made.spec.write_text(json.dumps(spec, indent=1), encoding="utf-8")
    outcome = json.loads(source.outcome.read_text(encoding="utf-8"))
    outcome["scores"] = scores(_value(number, params)).model_dump(mode="json")
    made.outcome.write_text(json.dumps(outcome, indent=1), encoding="utf-8")
    made.recorded.touch()


def _fill_mlflow(uri: str, arm: str, template: int, values: dict[int, dict[str, Any]]) -> None:
    engine = sqlalchemy.create_engine(uri)
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine, only=("runs", *_TABLES))
    tables = metadata.tables
    tags = tables["tags"]
    with engine.begin() as connection:
        run = connection.execute(
            sqlalchemy.select(tags.c.run_uuid).where(
                tags.c.key == "mlflow.runName", tags.c.value == f"{arm} #{template}"
            )
        ).scalar_one()
        rows = {
            name: [
                dict(row._mapping)
                for row in connection.execute(
                    sqlalchemy.select(table).where(table.c.run_uuid == run)
                )
            ]
            for name, table in tables.items()
            if name in ("runs", *_TABLES)
        }
        for name in ("runs", *_TABLES):
            batch: list[dict[str, Any]] = []
            for number in values:
                batch += [_row(row, number, arm) for row in rows[name]]
                if len(batch) >= ROWS:
                    connection.execute(tables[name].insert(), batch)
                    batch = []
            if batch:
                connection.execute(tables[name].insert(), batch)
    engine.dispose()


def _row(row: dict[str, Any], number: int, arm: str) -> dict[str, Any]:
    made = {**row, "run_uuid": f"{number:032x}"}
    if "artifact_uri" in row:
        made["name"] = f"{arm} #{number}"
        made["artifact_uri"] = row["artifact_uri"].replace(row["run_uuid"], made["run_uuid"])
    elif row["key"] == "sweeper.trial":
        made["value"] = str(number)
    elif row["key"] == "mlflow.runName":
        made["value"] = f"{arm} #{number}"
    return made
