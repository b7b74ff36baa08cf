"""The settings that a study's arms start with: those of its file, and the best of earlier studies.

They are read once, when an arm begins, and kept in the study's manifest: an earlier study that has
changed or is gone since does not change a study that resumes.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.scoring_engine import scoring_engine
from sweeper.config.base import KeyPath, Scalar, dotted, short
from sweeper.config.loading import LoadedStudy
from sweeper.config.models import ModelConfig, StudentConfig, with_settings
from sweeper.config.settings import (
    DECISIVE,
    MethodSettings,
    TrainingConfig,
    is_dead,
    model_settings,
    resolve,
)
from sweeper.config.space import IntSpace
from sweeper.config.start_with import EarlierStudyConfig, check_given
from sweeper.config.suite import SuiteTask
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.records import EnqueuedSettings
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import ArmRecord, StudyRecord, TrialRecord
from sweeper.search.sampling import left_open, settings_key
from sweeper.study.budgets import trial_budgets
from sweeper.study.manifest import has_begun, read_manifest, suite_spec
from sweeper.study.results import find_record

StartSettings = Mapping[str, tuple[EnqueuedSettings, ...]]
"""Settings of the first trials of each arm that has some."""


def start_settings(study: LoadedStudy, paths: StudyPaths) -> StartSettings:
    """Return the settings that arms start with; as recorded for arms of a study that has begun.

    Raises:
        ConfigError: An earlier study cannot be used, or an arm cannot run what is given; lists
            the first problem of each arm.
    """
    config = study.config
    manifest = read_manifest(paths)
    kept: StartSettings = {}
    if manifest is not None and has_begun(paths):
        # A changed entry is read, for `sweeper check`; to run it is refused.
        kept = {
            name: given
            for name, given in manifest.start_with.items()
            if name in config.arms
            and manifest.config.arms[name].start_with == config.arms[name].start_with
        }
    budgets = trial_budgets(config.arms, config.trials, config.sampler, config.budget.trials)
    problems: list[Problem] = []
    starts: dict[str, tuple[EnqueuedSettings, ...]] = {}
    for name, arm in config.arms.items():
        if name in kept:
            starts[name] = kept[name]
        elif arm.start_with:
            try:
                starts[name] = _read_arm(study, name, budgets[name], paths.runs)
            except ConfigError as error:
                problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return starts


def _read_arm(
    study: LoadedStudy, name: str, budget: int, runs: Path
) -> tuple[EnqueuedSettings, ...]:
    arm, key = study.config.arms[name], ("arms", name, "start_with")
    starts: dict[str, EnqueuedSettings] = {}
    for index, entry in enumerate(arm.start_with):
        place = (*key, index)
        if isinstance(entry, EarlierStudyConfig):
            read = _EarlierStudy(study, name, entry, place).best(runs)
        else:
            read = [EnqueuedSettings(settings=entry)]
        for enqueued in read:
            first = starts.setdefault(settings_key(enqueued.settings), enqueued)
            if first is not enqueued:
                message = f"expected settings that differ: {enqueued.source()} has those of"
                _refuse(study, place, f"{message} {first.source()} again; remove one")
            lacking = left_open(arm, enqueued.settings)
            if lacking and study.config.sampler.type == "grid":
                message = f"expected {', '.join(lacking)} too, because the sampler is grid"
                _refuse(study, place, message)
    if len(starts) > budget:
        message = f"expected at most {budget} settings, one for each trial of the arm"
        _refuse(study, key, f"{message}, found {len(starts)}; raise trials, or give fewer")
    return tuple(starts.values())


class _EarlierStudy:
    """An earlier study that an arm starts from."""

    def __init__(
        self, study: LoadedStudy, name: str, entry: EarlierStudyConfig, key: KeyPath
    ) -> None:
        self._study, self._entry, self._key = study, entry, key
        self._name, self._arm = name, study.config.arms[name]

    def best(self, runs: Path) -> list[EnqueuedSettings]:
        """Return the settings of its best trials, the best first.

        Raises:
            ConfigError: They cannot be named with certainty, or this arm cannot run them.
        """
        record = self._record(runs)
        arm = self._arm_of(record)
        where = f"arm {arm.name} of {record.study}"
        scored = scored_trials(arm)
        scores = [trial.outcome.scores for trial, _ in scored if trial.outcome]
        suites = {each.suite_hash: each.suite for each in scores if each}
        if len(suites) > 1:
            self._refuse(f"expected trials with one selection suite, found several in {where}")
        earlier = (trial.enqueued.tasks for trial in arm.trials if trial.enqueued)
        tasks = tuple(dict.fromkeys(itertools.chain(record.selection, *earlier)))
        if shared := self._shared(tasks, suites):
            message = "expected a study that was not selected on this study's test suite, found"
            message += f" {shared} in both: its best would bring the test suite into the search"
            self._refuse(message)
        sign = -1.0 if record.higher_is_better else 1.0
        best: dict[str, EnqueuedSettings] = {}
        for trial, score in sorted(scored, key=lambda pair: sign * pair[1].score):
            at = f"trial #{trial.number} of {where}"
            settings = self._carry_over(trial, self._theirs(record, arm, trial, at), at)
            enqueued = EnqueuedSettings(
                settings=settings,
                study=record.study,
                arm=arm.name,
                trial=trial.number,
                score=score.score,
                suite_hash=next(iter(suites), None),
                engine=scoring_engine(record),
                tasks=tasks,
            )
            best.setdefault(settings_key(settings), enqueued)
            if len(best) == self._entry.best:
                return list(best.values())
        message = f"expected at most {len(best)}, the completed trials of {where} whose settings"
        self._refuse(f"{message} differ here, found {self._entry.best}", "best")

    def _record(self, runs: Path) -> StudyRecord:
        named = self._entry.study
        for base in (Path(), self._study.path.parent):
            with suppress(OSError):  # A name too long, or a folder that may not be read.
                if (base / named).exists():
                    break
        else:
            looked = f"the working directory and {self._study.path.parent}"
            message = "expected a study file, a study's or a report's folder, or records.json.gz"
            self._refuse(f"{message}, found no {short(named)} in {looked}", "study")
        try:
            return find_record(base / named, runs)
        except ConfigError as error:
            reasons = "; ".join(dict.fromkeys(map(str, error.problems)))
            self._refuse(f"expected an earlier study, found one that cannot be read: {reasons}")

    def _arm_of(self, record: StudyRecord) -> ArmRecord:
        named = self._entry.arm or self._name
        arms = {arm.name: arm for arm in record.arms}
        if (arm := arms.get(named)) is None:
            message = f"expected an arm of {record.study} as `arm`, one of {', '.join(arms)}"
            self._refuse(f"{message}; found {named!r}", "arm")
        if arm.method != self._arm.method:
            message = f"expected an arm of method {self._arm.method}, as this one"
            self._refuse(f"{message}; {named} of {record.study} has {arm.method}", "arm")
        ended = sum(trial.state in ("completed", "pruned", "failed") for trial in arm.trials)
        if arm.stopped is None and ended < arm.budget:
            message = f"expected an arm whose search is finished, found {ended} of {arm.budget}"
            message += f" trials of {named} of {record.study}; finish that study"
            self._refuse(f"{message}, or write the settings themselves", "study")
        return arm

    def _shared(self, tasks: Iterable[SuiteTask], suites: Mapping[str, str]) -> str:
        """Return what of this study's test suite was selected on, in words.

        Args:
            tasks: Tasks that the earlier study was selected on.
            suites: Its selection suite: the name by the hash.
        """
        test = self._study.test
        if test is None:
            return ""
        for ours, theirs in itertools.product(test.config.tasks, tasks):
            if both := ours.shared(theirs):
                end = "the last" if both.stop == sys.maxsize else str(both.stop - 1)
                return f"the documents {both.start} to {end} of {ours.task}"
        # An old record has the suite's hash only, in which its name has a part.
        for digest, name in suites.items():
            config = test.config.model_copy(update={"suite": name})
            named = replace(test, config=config, engine="transformers")
            if suite_spec(named).content_hash == digest:
                return f"the suite {name}"
        return ""

    def _theirs(
        self, record: StudyRecord, arm: ArmRecord, trial: TrialRecord, where: str
    ) -> dict[str, Any]:
        """Return the trial's values, sampled or fixed there, of all settings."""
        known = MethodSettings.model_fields.keys() - _SHRUNK
        ran = {name: trial.settings[name] for name in known & trial.settings.keys()}
        config = record.config
        try:
            return _values(
                MethodSettings.model_validate(ran),
                ModelConfig.model_validate(config["teacher"]),
                StudentConfig.model_validate(config["student"]),
                config.get("training", {}),
                arm.settings,
                trial.params,
            ) | dict(trial.params)
        except (LookupError, ValueError):
            message = f"expected settings that this version knows, found others in {where}"
            self._refuse(f"{message}; write the settings themselves")

    def _carry_over(
        self, trial: TrialRecord, theirs: Mapping[str, Any], where: str
    ) -> dict[str, Scalar]:
        """Return the trial's values of everything that this arm searches.

        What only the other arm searched must be the same here.
        """
        method, settings, search = self._arm.method, self._arm.settings, self._arm.search
        given: dict[str, Any] = {}
        for name in sorted(search, key=lambda name: name not in DECISIVE):
            if name in theirs and not is_dead(method, name, {**settings, **given}):
                value = theirs[name]
                whole = isinstance(search[name], IntSpace) and isinstance(value, float)
                given[name] = int(value) if whole and value.is_integer() else value
        config = self._study.config
        ours = _values(config.training, config.teacher, config.student, settings)
        for name in (name for name in trial.params if name not in search):
            if name not in ours or theirs[name] != ours[name]:
                here = f"this arm {short(ours[name])}" if name in ours else "this arm has none"
                message = f"{where} has {name}: {short(theirs[name])}, and {here}"
                self._refuse(f"{message}; search it, or fix it to the same value")
        values, wrong = check_given(given, method, settings, search)
        for key, message in wrong:
            name = ".".join(key)
            self._refuse(f"{where} does not fit{f' in {name}' if name else ''}: {message}")
        return values

    def _refuse(self, message: str, *below: str) -> NoReturn:
        _refuse(self._study, (*self._key, *below), message)


def _refuse(study: LoadedStudy, key: KeyPath, message: str) -> NoReturn:
    raise ConfigError([study.file.problem(key, message)])


_SHRUNK = {"per_device_train_batch_size", "gradient_accumulation_steps"}
"""Settings of which a trial that ran out of memory records others than it was given."""


def _values(
    training: TrainingConfig, teacher: ModelConfig, student: StudentConfig, *layers: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of all settings by their full names, with ``layers`` over a study's keys.

    Settings without a value are left out: an argument that nobody gives, the adapter of a student
    that has none, and of steps and epochs those that do not count.
    """
    settings = resolve(training, *layers)
    own, adapter = (model_settings(prefix, *layers) for prefix in ("teacher", "lora"))
    values = {
        **settings.model_dump(),
        # Over the model that `student` stands for: the name that was given.
        "teacher": {**with_settings(teacher, own, student.before_training()).model_dump(), **own},
        "lora": {**(student.lora.model_dump() if student.lora else {}), **adapter},
    }
    del values["num_train_epochs" if settings.num_train_epochs is None else "max_steps"]
    return dict(dotted(values))
