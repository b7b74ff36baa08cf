"""``sweeper export``: a study's winner as a recipe, or as a model directory with its card.

Trials keep no weights. A trial is a function of its spec, so the winner is trained once more, by
the same executor and the same code, and its scores are compared with those that are recorded.
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
from sweeper.records import KeptStudent, Outcome, Scores, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.model_card import model_card
from sweeper.study import preparation
from sweeper.study.executors import make_executor
from sweeper.study.jobs import RunningJob
from sweeper.study.lock import hold
from sweeper.study.manifest import (
    StudyManifest,
    changes,
    data_files,
    input_files,
    read_manifest,
    suite_spec,
)

_POLL_SECONDS = 0.25


def export_recipe(
    study: LoadedStudy, record: StudyRecord, arm: str | None, output: Path | None
) -> tuple[str, list[str]]:
    """The winner as an Oumi training configuration.

    Args:
        study: The study file.
        record: What is recorded of the study.
        arm: The arm to take; None: the winner's.
        output: The file to write; None: it is only returned.

    Returns:
        The text, and what it cannot say of the arm.

    Raises:
        ConfigError: There is no winner, the format has no trainer for it, or the file exists.
    """
    winner = choose(record, arm)
    config = _with_found_data(study)
    values, unsaid = write_recipe(config, winner.arm, winner.trial.params)
    found = winner.trial.outcome.scores if winner.trial.outcome else None
    score = f", {found.score:.4g} on {found.suite}" if found else ""
    head = (
        f"{winner.arm} #{winner.trial.number} of the sweeper study {record.study}{score};"
        f" chosen {winner.why}."
    )
    lines = "\n".join(textwrap.fill(line, WIDTH - 2) for line in (head, *unsaid))
    text = commented(lines) + yaml_text(redacted(values), flow=9)
    if output is not None:
        message = None
        try:
            if output.exists():
                message = f"expected a new file, but {output} exists"
            else:
                write_text_atomically(output, text)
        except OSError as error:
            message = f"{output} cannot be written: {error.strerror}"
        if message:
            raise ConfigError([Problem(source="--output", message=message)])
    return text, unsaid


def _with_found_data(study: LoadedStudy) -> StudyConfig:
    """The study with a local data file's own path, and with what its columns hold."""
    config = study.config
    changes: dict[str, object] = {}
    for name in data_files(study):
        columns = config.data.train.columns or find_columns(Path(name), read_rows(Path(name))[0])
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
    """Train the winner once more, and write it with tokenizer and card; whole, or not at all.

    Args:
        study: The study file.
        paths: Where the study is recorded.
        record: What is recorded of it.
        directory: What to write; new or empty.
        arm: The arm to take; None: the winner's.
        merged: Add the weights of an adapter to those below it.
        cache: The content-addressed cache; by default the user's.
        out: The terminal.

    Returns:
        The exit code: 0, or 130 if the user stopped it.

    Raises:
        SweeperError: It cannot be exported as asked, or the training failed.
    """
    winner = choose(record, arm)
    _check_directory(directory)
    adapter = study.config.student.lora is not None and not merged
    if adapter:
        _check_base(study)
    if merged:
        _check_merged(study)
    snapshot = read_manifest(paths)
    assert snapshot is not None, "what is recorded was begun"
    if differences := changes(snapshot, study):
        listed = "\n".join(f"  {difference}" for difference in differences)
        message = f"{study.path}: the study was run differently:\n{listed}"
        raise StudyChangedError(f"{message}\nIts winner would be another student. Undo the change.")
    cache = cache or default_root()
    work = paths.directory / f".export.{uuid.uuid4().hex}"
    executor = make_executor(study.config.compute, paths, cache, input_files(study), study.file)
    label = f"{winner.arm} #{winner.trial.number}"
    try:
        with disk.explained(work, directory, cache), hold(paths), _removed(work):
            keep = KeptStudent(
                directory=str(work / "student"),
                merged=merged,
                base=place(study.config.student.model),
            )
            with executor:
                spec = _spec(study, paths, snapshot, winner, keep, cache, executor, work)
                outcome = _train(spec, executor, label, out)
            repeated = _repeated(winner, outcome)
            (work / "student" / "README.md").write_text(
                _card(study, record, winner, outcome, adapter, repeated), encoding="utf-8"
            )
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
        message = f"expected a new or an empty folder, but {directory} holds something"
        raise ConfigError([Problem(source="--model", message=message)])


def _check_merged(study: LoadedStudy) -> None:
    """Refuse to put an adapter into weights that were rounded: they would be rounded once more."""
    if study.config.student.quantization is not None:
        message = "expected no --merged: the student's weights are rounded (student.quantization)"
        raise ConfigError([Problem(source="--merged", message=message)])


def _check_base(study: LoadedStudy) -> None:
    """Refuse an adapter on weights that nobody else has."""
    config = study.config
    reason = None
    if config.warm_start is not None:
        reason = "the study's warm start"
    elif config.student.keep_layers is not None:
        reason = "some layers of a model (student.keep_layers)"
    elif config.student.random_init:
        reason = "random weights (student.random_init)"
    elif place(config.student.model).startswith("builtin/"):
        reason = f"{config.student.model}, which is known to sweeper only"
    if reason:
        message = f"expected --merged beside it: the adapter lies on {reason}"
        raise ConfigError([Problem(source="--model", message=message)])


def _spec(
    study: LoadedStudy,
    paths: StudyPaths,
    snapshot: StudyManifest,
    winner: Winner,
    keep: KeptStudent,
    cache: Path,
    executor: Executor,
    work: Path,
) -> TrialSpec:
    """The winner's own spec, at another place; secrets, which no record holds, from the study."""
    files = paths.trial(winner.arm, winner.trial.number)
    if winner.final is not None:
        files = paths.confirmation_run(winner.arm, winner.final.number)
    recorded = TrialSpec.model_validate_json(files.spec.read_bytes())
    config, arm = study.config, study.config.arms[winner.arm]
    origin = preparation.make_study_inputs(study, snapshot, cache)
    for steps in preparation.STEPS:
        origin = preparation.with_results(origin, steps, paths)
    place = executor.next_resources(work)
    return recorded.model_copy(
        update={
            "origin": origin,
            "teacher": model_settings("teacher", arm.settings, recorded.params),
            "settings": recorded.settings.model_copy(update={"checkpoint_every": None}),
            "interim": (),
            "suite": suite_spec(study.selection),
            # What was scored there is recorded, and the test suite is read once.
            "test_suite": None,
            "keep": keep,
            # With other threads sums have another order.
            "place": place.model_copy(
                update={
                    "threads": recorded.place.threads,
                    "memory_gib": config.compute.memory_limit,
                    "shard_teacher": config.compute.shard_teacher,
                    "shard_student": config.compute.shard_student,
                }
            ),
        }
    )


def _train(spec: TrialSpec, executor: Executor, label: str, out: Console) -> Outcome:
    """Run the job, and show how far it is.

    Raises:
        SweeperError: It failed.
    """
    files = JobPaths(Path(spec.place.directory))
    write_text_atomically(files.spec, redacted_json(spec))
    executor.submit(spec)
    job = RunningJob(spec)
    with out.status(f"Training {label} once more …") as status:
        while not (finished := executor.wait(_POLL_SECONDS)):
            if job.read(0.0) and job.last is not None:
                steps = f" {job.last.step} of {job.last.max_steps}" if job.last.step else ""
                status.update(f"Training {label} once more: {job.last.phase}{steps}")
    outcome = finished[0].outcome
    if outcome is None or outcome.state != "completed":
        failure = outcome.failure.message if outcome and outcome.failure else finished[0].reason
        raise SweeperError(f"{label} could not be trained once more: {failure}")
    return outcome


def _repeated(winner: Winner, outcome: Outcome) -> str:
    """How the scores compare with those that are recorded, in words."""
    recorded = _recorded(winner)
    now, before = outcome.scores, recorded.scores
    told = [_compared(now, before)] if now and before else []
    changed = sorted(
        name
        for name, version in outcome.versions.items()
        if recorded.versions.get(name, version) != version
    )
    if changed and now and before and now.score != before.score:
        told.append(f"Other versions than then: {', '.join(changed)}.")
    return " ".join(["Trained once more from its recorded settings:", *told])


def _recorded(winner: Winner) -> Outcome:
    """How the winner ended in the study."""
    recorded = winner.final.outcome if winner.final else winner.trial.outcome
    assert recorded is not None
    return recorded


def _compared(now: Scores, before: Scores) -> str:
    if now.score == before.score:
        return f"{now.score:.4g} on {now.suite}, exactly as recorded."
    return f"{now.score:.4g} on {now.suite}, where {before.score:.4g} was recorded."


def _card(
    study: LoadedStudy,
    record: StudyRecord,
    winner: Winner,
    outcome: Outcome,
    adapter: bool,
    repeated: str,
) -> str:
    config, student = study.config, study.config.student.model
    hub = not student.startswith("builtin/") and not Path(student).is_dir()
    teacher = model_settings("teacher", config.arms[winner.arm].settings, winner.trial.params)
    return model_card(
        record,
        winner,
        # The test suite is not scored again.
        outcome.model_copy(update={"test_scores": _recorded(winner).test_scores}),
        base=student if hub else None,
        teacher=str(teacher.get("model", config.teacher.model)),
        adapter=adapter,
        repeated=repeated,
    )


@contextmanager
def _removed(work: Path) -> Iterator[None]:
    """A folder for as long as the block lasts."""
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
