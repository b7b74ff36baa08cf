"""A study's winner as an Oumi training configuration."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from sweeper.analysis.winner import choose
from sweeper.commands.init.local_data import find_columns, read_rows
from sweeper.config.loading import LoadedStudy
from sweeper.config.oumi.writing import write_recipe
from sweeper.config.study import StudyConfig
from sweeper.config.yaml_text import WIDTH, commented, yaml_text
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted
from sweeper.records.study_record import StudyRecord
from sweeper.study.manifest import data_files, model_folders


def export_recipe(
    study: LoadedStudy, record: StudyRecord, arm: str | None, output: Path | None
) -> tuple[str, list[str]]:
    """Return a recipe of the winner, or of an arm's best trial, as an Oumi training configuration.

    It is also written to ``output``. With it come the settings that the format cannot express.

    Raises:
        ConfigError: There is no winner, the format has no trainer for it, or the file exists.
    """
    winner = choose(record, arm)
    config = _with_local_data(study)
    values, unsaid = write_recipe(config, winner.arm, winner.trial.params, model_folders(study))
    scores = winner.trial.outcome.scores if winner.trial.outcome else None
    score = f", {scores.score:.4g} on {scores.suite}" if scores else ""
    head = (
        f"{winner.arm} #{winner.trial.number} of the sweeper study {record.study}{score};"
        f" chosen {winner.why}."
    )
    lines = "\n".join(textwrap.fill(line, WIDTH - 2) for line in (head, *unsaid))
    text = commented(lines) + yaml_text(redacted(values), flow=9)
    if output is not None:
        try:
            if output.exists():
                message = f"expected a new file, but {output} exists"
                raise ConfigError([Problem(source="--output", message=message)])
            write_text_atomically(output, text)
        except OSError as error:
            message = f"{output} cannot be written: {error.strerror}"
            raise ConfigError([Problem(source="--output", message=message)]) from None
    return text, unsaid


def _with_local_data(study: LoadedStudy) -> StudyConfig:
    """Return the study with the path and the columns of a local data file."""
    config = study.config
    changes: dict[str, object] = {}
    for name in data_files(study):
        train = config.data.train
        columns = train.columns
        if columns is None:
            local = read_rows(Path(name), train.split, train.field)
            columns = find_columns(Path(name), local.rows[: train.limit])
        changes = {"path": os.path.relpath(name), "columns": columns}
    train = config.data.train.model_copy(update=changes)
    return config.model_copy(update={"data": config.data.model_copy(update={"train": train})})
