"""``sweeper export``: a study's winner as a recipe, or as a model directory with its card.

Trials keep no weights. A trial is a function of its spec, so the winner is trained again by the
same executor and the same code, and its scores are compared with the recorded ones.
"""

from __future__ import annotations

import os
import shutil
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from sweeper.analysis.winner import Winner, choose
from sweeper.commands.init.local_data import find_columns, read_rows
from sweeper.commands.run import INTERRUPTED
from sweeper.config.loading import LoadedStudy
from sweeper.config.models import StudentConfig, with_settings
from sweeper.config.oumi.writing import place, write_recipe
from sweeper.config.settings import model_settings
from sweeper.config.study import StudyConfig
from sweeper.config.yaml_text import WIDTH, commented, yaml_text
from sweeper.execution.executor import Executor
from sweeper.foundation import disk
from sweeper.foundation.cache import default_root
from sweeper.foundation.errors import ConfigError, Problem, StudyChangedError, SweeperError
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted, redacted_json
from sweeper.records import KeptStudent, Outcome, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.specs import Resources, StudyInputs
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.model_card import model_card
from sweeper.study import preparation
from sweeper.study.executors import make_executor
from sweeper.study.jobs import RunningJob
from sweeper.study.lock import hold
from sweeper.study.manifest import (
    changes,
    data_files,
    input_files,
    model_folders,
    read_manifest,
    suite_spec,
)

_POLL_SECONDS = 0.25


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


def export_model(
    study: LoadedStudy,
    paths: StudyPaths,
    record: StudyRecord,
    directory: Path,
    *,
    arm: str | None,
    merged: bool,
    cache: Path | None,
    out: Console,
) -> int:
    """Train the winner again, and write it with tokenizer and card: completely, or not at all.

    ``arm`` exports that arm's best trial instead; ``merged`` merges an adapter into the weights
    below it. The folder is new or empty. The exit code is 0, or 130 if the user stopped it.

    Raises:
        SweeperError: It cannot be exported as asked, or the training failed.
    """
    winner = choose(record, arm)
    _check_directory(directory)
    student = study.config.student
    adapter = student.lora is not None and not merged
    if adapter:
        _check_base(student, warm=study.config.warm_start is not None)
    if merged and student.quantization is not None:
        # Weights that are rounded would be rounded once more.
        rule = "expected no --merged: the student's weights are rounded (student.quantization)"
        raise ConfigError([Problem(source="--merged", message=rule)])
    manifest = read_manifest(paths)
    assert manifest is not None, "a recorded study has a manifest"
    if differences := changes(manifest, study):
        listed = "\n".join(f"  {difference}" for difference in differences)
        message = f"{study.path}: the study was run differently:\n{listed}"
        raise StudyChangedError(f"{message}\nIts winner would be another student. Undo the change.")
    cache = cache or default_root()
    work = paths.directory / f".export.{uuid.uuid4().hex}"
    executor = make_executor(study.config.compute, paths, cache, input_files(study), study.file)
    label = f"{winner.arm} #{winner.trial.number}"
    try:
        with disk.explained(work, directory, cache), hold(paths), _removed(work):
            base = place(student.model, model_folders(study))
            keep = KeptStudent(directory=str(work / "student"), merged=merged, base=base)
            with executor:
                inputs = preparation.make_study_inputs(study, manifest, cache)
                for steps in preparation.steps(study.config):
                    inputs = preparation.with_results(inputs, steps, paths)
                resources = executor.next_resources(work)
                spec = _spec(study, winner, paths, inputs, resources, keep)
                outcome = _train(spec, executor, label, out)
            repeated = _repeated(winner, outcome)
            card = _card(study, record, winner, outcome, adapter, repeated)
            (work / "student" / "README.md").write_text(card, encoding="utf-8")
            _move(work / "student", directory)
    except KeyboardInterrupt:
        out.print("Stopped; nothing was written.")
        return INTERRUPTED
    kind = "its adapter" if adapter else "its weights"
    out.print(f"{label}, chosen {winner.why}.\n{repeated}", soft_wrap=True)
    out.print(f"Wrote {kind}, tokenizer and card: {directory}", soft_wrap=True)
    return 0


def _check_directory(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        message = f"expected a new or an empty folder, but {directory} is not empty"
        raise ConfigError([Problem(source="--model", message=message)])


def _check_base(student: StudentConfig, *, warm: bool) -> None:
    """Refuse an adapter on weights that nobody else has."""
    reason = None
    if warm:
        reason = "the study's warm start"
    elif student.keep_layers is not None:
        reason = "some layers of a model (student.keep_layers)"
    elif student.random_init:
        reason = "random weights (student.random_init)"
    elif place(student.model, {}).startswith("builtin/"):
        reason = f"{student.model}, which only sweeper has"
    if reason:
        message = f"expected --merged next to it: the adapter belongs to {reason}"
        raise ConfigError([Problem(source="--model", message=message)])


def _spec(
    study: LoadedStudy,
    winner: Winner,
    paths: StudyPaths,
    inputs: StudyInputs,
    place: Resources,
    keep: KeptStudent,
) -> TrialSpec:
    """Return the winner's recorded spec for another place, with the secrets of the study."""
    files = paths.trial(winner.arm, winner.trial.number)
    if winner.final is not None:
        files = paths.confirmation_run(winner.arm, winner.final.number)
    recorded = TrialSpec.model_validate_json(files.spec.read_bytes())
    settings, compute = study.config.arms[winner.arm].settings, study.config.compute
    return recorded.model_copy(
        update={
            "origin": inputs,
            "teacher": model_settings("teacher", settings, recorded.params),
            "settings": recorded.settings.model_copy(update={"checkpoint_every": None}),
            "interim": (),
            "suite": suite_spec(study.selection),
            # Test scores are on record, and the test suite is read once.
            "test_suite": None,
            "keep": keep,
            # With other threads sums have another order.
            "place": place.model_copy(
                update={
                    "threads": recorded.place.threads,
                    "memory_gib": compute.memory_limit,
                    "shard_teacher": compute.shard_teacher,
                    "shard_student": compute.shard_student,
                }
            ),
        }
    )


def _train(spec: TrialSpec, executor: Executor, label: str, out: Console) -> Outcome:
    """Run the job, and show its progress; raise if it failed."""
    files = JobPaths(Path(spec.place.directory))
    write_text_atomically(files.spec, redacted_json(spec))
    executor.submit(spec)
    job = RunningJob(spec)
    with out.status(f"Training {label} again …") as status:
        while not (finished := executor.wait(_POLL_SECONDS)):
            if job.read(0.0) and job.last is not None:
                steps = f" {job.last.step} of {job.last.max_steps}" if job.last.step else ""
                status.update(f"Training {label} again: {job.last.phase}{steps}")
    outcome = finished[0].outcome
    if outcome is None or outcome.state != "completed":
        failure = outcome.failure.message if outcome and outcome.failure else finished[0].reason
        raise SweeperError(f"{label} could not be trained again: {failure}")
    return outcome


def _repeated(winner: Winner, outcome: Outcome) -> str:
    """Compare the scores with the recorded ones, in words."""
    recorded = _recorded(winner)
    now, before = outcome.scores, recorded.scores
    text = "Trained again from its recorded settings:"
    if not now or not before:
        return text
    if now.score == before.score:
        return f"{text} {now.score:.4g} on {now.suite}, exactly as recorded."
    text += f" {now.score:.4g} on {now.suite}, where {before.score:.4g} was recorded."
    versions = recorded.versions
    changed = sorted(
        name for name, version in outcome.versions.items() if versions.get(name, version) != version
    )
    return f"{text} Versions have changed: {', '.join(changed)}." if changed else text


def _recorded(winner: Winner) -> Outcome:
    """Return the winner's outcome in the study."""
    recorded = winner.final.outcome if winner.final else winner.trial.outcome
    assert recorded is not None
    return recorded


def _card(
    study: LoadedStudy,
    record: StudyRecord,
    winner: Winner,
    outcome: Outcome,
    adapter: bool,
    repeated: str,
) -> str:
    config, student = study.config, study.config.student.model
    hub = not student.startswith("builtin/") and student not in model_folders(study)
    teacher = model_settings("teacher", config.arms[winner.arm].settings, winner.trial.params)
    return model_card(
        record,
        winner,
        # The test suite is not scored again.
        outcome.model_copy(update={"test_scores": _recorded(winner).test_scores}),
        base=student if hub else None,
        teacher=with_settings(config.teacher, teacher, config.student.before_training()).model,
        adapter=adapter,
        repeated=repeated,
    )


@contextmanager
def _removed(work: Path) -> Iterator[None]:
    """Make a folder that exists as long as the block lasts."""
    work.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(student: Path, directory: Path) -> None:
    """Put the finished folder in its place in one step, also on another file system."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f".{directory.name}.{uuid.uuid4().hex}"
    try:
        shutil.move(student, temporary)
        os.replace(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
