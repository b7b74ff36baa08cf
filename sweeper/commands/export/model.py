"""A study's winner as a model directory with its card.

Trials keep no weights. A trial is a function of its spec, so the winner is trained again by the
same executor and the same code. What was written is then loaded by a process of its own, as others
load it, and scored: it has to be the trained student, and its scores go into the card.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sweeper.analysis.winner import Winner, choose
from sweeper.commands.export.comparison import Scored, check_scores, compared
from sweeper.commands.run import INTERRUPTED
from sweeper.config.loading import LoadedStudy
from sweeper.config.models import StudentConfig, with_settings
from sweeper.config.oumi.writing import place
from sweeper.config.settings import model_settings
from sweeper.config.study import StudyConfig
from sweeper.execution.executor import Executor, Spec
from sweeper.foundation import disk
from sweeper.foundation.cache import default_root
from sweeper.foundation.errors import ConfigError, Problem, StudyChangedError, SweeperError
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted_json
from sweeper.records import KeptStudent, Outcome, PreparationSpec, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.specs import Resources, StudyInputs
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.model_card import model_card
from sweeper.study import preparation
from sweeper.study.device_precision import as_recorded
from sweeper.study.executors import make_executor
from sweeper.study.jobs import RunningJob
from sweeper.study.lock import hold
from sweeper.study.manifest import (
    changes,
    input_files,
    model_folders,
    read_manifest,
    suite_spec,
)
from sweeper.study.preparation_order import preparation_order
from sweeper.study.served import Served, make_served
from sweeper.study.served_models import roles_of_trials, trial_devices

_POLL_SECONDS = 0.25
_OF_LOADING = (
    "attn_implementation",
    "cache_dir",
    "device_map",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "offload_state_dict",
    "proxies",
    "quantization_config",
    "token",
)
"""Arguments of ``from_pretrained`` that leave the model as others load it, or stand in the card."""


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
    directory = directory.absolute()
    _check_directory(directory)
    student = study.config.student
    adapter = student.lora is not None and not merged
    if adapter:
        _check_base(student, warm=study.config.warm_start is not None)
    own = "init_kwargs." if "quantization_config" in student.init_kwargs else ""
    if merged and (own or student.quantization is not None):
        # Weights that are rounded would be rounded once more.
        key = f"student.{own}{'quantization_config' if own else 'quantization'}"
        rule = f"expected no --merged: the student's weights are rounded ({key})"
        raise ConfigError([Problem(source="--merged", message=rule)])
    manifest = read_manifest(paths)
    assert manifest is not None, "a recorded study has a manifest"
    study = as_recorded(study, manifest)
    if differences := changes(manifest, study):
        listed = "\n".join(f"  {difference}" for difference in differences)
        message = f"{study.path}: the study was run differently:\n{listed}"
        raise StudyChangedError(f"{message}\nIts winner would be another student. Undo the change.")
    cache = cache or default_root()
    work = paths.directory.absolute() / f".export.{uuid.uuid4().hex}"
    files, devices = input_files(study), trial_devices(study)
    executor = make_executor(study.config.compute, paths, cache, files, study.file, devices)
    label = f"{winner.arm} #{winner.trial.number}"
    library = "PEFT" if adapter else "transformers"
    try:
        with disk.explained(work, directory, cache), hold(paths), _removed(work):
            base = place(student.model, model_folders(study))
            keep = KeptStudent(
                directory=str(work / "student"),
                merged=merged,
                base=base,
                reference=str(JobPaths(work).reference),
            )
            with executor:
                inputs = preparation.make_study_inputs(study, manifest, cache)
                steps = preparation_order(study.config, students_served=True)
                inputs = preparation.with_results(inputs, tuple(steps), paths)
                with make_served(study, paths, manifest, executor) as served:
                    _serve(served, study.config, inputs, out)
                    resources = served.place(executor.next_resources(work))
                    spec = _spec(study, winner, paths, inputs, resources, keep)
                    trained = _run(spec, executor, out, doing=f"Training {label} again")
                    scoring = _scoring_spec(study, inputs, spec, executor, work / "written")
                    written = _run(scoring, executor, out, doing="Scoring the saved student")
            check_scores(trained.scores, written.scores)
            recorded = Scored.read(_recorded(winner), _files(winner, paths))
            verified = compared(recorded, trained, written, library=library)
            card = _card(study, record, winner, trained.outcome, written.outcome, adapter, verified)
            (work / "student" / "README.md").write_text(card, encoding="utf-8")
            _move(work / "student", directory)
    except KeyboardInterrupt:
        out.print("Stopped; nothing was written.")
        return INTERRUPTED
    kind = "its adapter" if adapter else "its weights"
    out.print(f"{label}, chosen {winner.why}.\n{verified}", soft_wrap=True)
    out.print(f"Wrote {kind}, tokenizer and card: {directory}", soft_wrap=True)
    return 0


def _check_directory(directory: Path) -> None:
    """Check, before anything is trained, that the folder can be made."""
    message = None
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        message = f"expected a new or an empty folder, found something else: {directory}"
    elif directory.is_dir() and any(directory.iterdir()):
        message = f"expected a new or an empty folder, but {directory} is not empty"
    else:
        above = next(parent for parent in directory.parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            message = f"expected a place where a folder can be made, but {above} cannot be written"
    if message:
        raise ConfigError([Problem(source="--model", message=message)])


def _check_base(student: StudentConfig, *, warm: bool) -> None:
    """Refuse an adapter on weights that nobody else has."""
    reason = None
    changing = [name for name in student.init_kwargs if name not in _OF_LOADING]
    if warm:
        reason = "the study's warm start"
    elif student.keep_layers is not None:
        reason = "some layers of a model (student.keep_layers)"
    elif student.vocab_size is not None:
        reason = "a part of a vocabulary (student.vocab_size)"
    elif changing:
        reason = f"a model loaded with settings of its own (student.init_kwargs.{changing[0]})"
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
    recorded = TrialSpec.model_validate_json(_files(winner, paths).spec.read_bytes())
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


def _serve(served: Served, config: StudyConfig, inputs: StudyInputs, out: Console) -> None:
    """Start the servers that the winner's training asks."""
    roles = roles_of_trials(config, inputs.rollout_engine)
    with out.status("Starting servers …") as status:

        def say(what: str | None) -> None:
            status.update(f"{(what or 'servers').capitalize()} …")

        served.serve(roles, roles, say, lambda: None, jobs=1)


def _files(winner: Winner, paths: StudyPaths) -> JobPaths:
    """Return the files of the winner's recorded training."""
    if winner.final is not None:
        return paths.confirmation_run(winner.arm, winner.final.number)
    return paths.trial(winner.arm, winner.trial.number)


def _scoring_spec(
    study: LoadedStudy, inputs: StudyInputs, trained: TrialSpec, executor: Executor, work: Path
) -> PreparationSpec:
    """Return the spec of a job that loads and scores what the training wrote, as others would.

    Also where the study's scores are computed by servers.
    """
    work.mkdir()
    evaluation = inputs.evaluation.model_copy(update={"engine": "transformers"})
    inputs = inputs.model_copy(update={"evaluation": evaluation})
    suite = suite_spec(replace(study.selection, engine="transformers"))
    spec = preparation.make_spec(study, inputs, suite, "written", JobPaths(work))
    place = executor.next_resources(work).alone()
    same = {"threads": trained.place.threads, "memory_gib": trained.place.memory_gib}
    return spec.model_copy(update={"written": trained.keep, "place": place.model_copy(update=same)})


def _run(spec: Spec, executor: Executor, out: Console, *, doing: str) -> Scored:
    """Run a job, and show its progress; raise if it failed."""
    files = JobPaths(Path(spec.place.directory))
    write_text_atomically(files.spec, redacted_json(spec))
    executor.submit(spec)
    job = RunningJob(spec)
    with out.status(f"{doing} …") as status:
        while not (finished := executor.wait(_POLL_SECONDS)):
            if job.read(0.0) and job.last is not None:
                steps = f" {job.last.step} of {job.last.max_steps}" if job.last.step else ""
                status.update(f"{doing}: {job.last.phase}{steps}")
    outcome = finished[0].outcome
    if outcome is None or outcome.state != "completed":
        failure = outcome.failure.message if outcome and outcome.failure else finished[0].reason
        raise SweeperError(f"{doing} failed; no folder was written: {failure}")
    return Scored.read(outcome, files)


def _recorded(winner: Winner) -> Outcome:
    """Return the winner's outcome in the study."""
    recorded = winner.final.outcome if winner.final else winner.trial.outcome
    assert recorded is not None
    return recorded


def _card(
    study: LoadedStudy,
    record: StudyRecord,
    winner: Winner,
    trained: Outcome,
    written: Outcome,
    adapter: bool,
    verified: str,
) -> str:
    config, student = study.config, study.config.student.model
    # Scores of one engine, next to those of teacher and start.
    same = written.scores and trained.scores and written.scores.engine == trained.scores.engine
    scores = written.scores if same else trained.scores
    hub = not student.startswith("builtin/") and student not in model_folders(study)
    teacher = model_settings("teacher", config.arms[winner.arm].settings, winner.trial.params)
    return model_card(
        record,
        winner,
        # The test suite is not scored again.
        trained.model_copy(update={"scores": scores, "test_scores": _recorded(winner).test_scores}),
        base=student if hub else None,
        teacher=with_settings(config.teacher, teacher, config.student.before_training()).model,
        adapter=adapter,
        repeated=verified,
    )


@contextmanager
def _removed(work: Path) -> Iterator[None]:
    """Make a folder that exists as long as the block lasts.

    Folders of exports that were killed are removed: only one runs at a time.
    """
    for left in work.parent.glob(".export.*"):
        shutil.rmtree(left, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(student: Path, directory: Path) -> None:
    """Put the finished folder in its place in one step, also on another file system."""
    temporary = directory.parent / f".{directory.name}.{uuid.uuid4().hex}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(student, temporary)
        os.replace(temporary, directory)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and not disk.is_full(error, directory):
            message = f"{directory} cannot be written: {error.strerror}. Nothing was written."
            raise SweeperError(message) from error
        raise
