"""The precision that the models of a study were scored in: scores in two of them do not compare."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from sweeper.config.base import ScoringDtype
from sweeper.config.models import ModelConfig
from sweeper.config.study import StudyConfig
from sweeper.records import Outcome
from sweeper.records.study_record import StudyRecord

UNDECLARED = "the types of the weights, or of autocast"
"""The precision of a study that declared none, in words."""


def scoring_dtype(record: StudyRecord, *, teacher: bool = True) -> ScoringDtype | None:
    """Return the precision that all models of the study were scored in; None if there is none.

    Without ``teacher`` it is that of the students, which is what arms compare in.

    Studies that began before ``evaluation.dtype`` was there declared none: a model was scored in
    the type of its weights, or in the autocast of its training. That was float32 if nothing else
    was in play. Otherwise it was not the same for all models, or log-probabilities were summed in
    16 bits, which compares with nothing since.
    """
    outcomes = [outcome for outcome in _outcomes(record) if outcome.scores]
    declared = {outcome.scores.dtype for outcome in outcomes if outcome.scores}
    if declared not in ({None}, set()):
        return declared.pop() if len(declared) == 1 else None
    try:
        config = StudyConfig.model_validate(record.config)
    except ValidationError:  # of another version, or with a secret hidden that has to be a number
        return None
    if not outcomes:
        return config.scoring_dtype()
    on_cpu = all({*outcome.device.split(", ")} == {"cpu"} for outcome in outcomes)
    trained_whole = config.student.lora is None
    settings = [config.training.model_dump()]
    settings += [trial.settings for arm in record.arms for trial in arm.trials]
    autocast = any(each.get("bf16") or each.get("fp16") for each in settings)
    exact = not (trained_whole and autocast)
    models: list[tuple[ModelConfig, bool]] = [(config.student, on_cpu or trained_whole)]
    models += [(config.teacher, on_cpu)] if teacher else []
    for model, loads_exact in models:
        exact &= model.dtype == "float32" or (model.dtype == "auto" and loads_exact)
        exact &= "quantization_config" not in model.init_kwargs
    return "float32" if exact else None


def _outcomes(record: StudyRecord) -> Iterator[Outcome]:
    """Yield the outcomes of everything that was scored."""
    tests = [record.test.teacher, record.test.starting_student] if record.test else []
    trials = [trial.outcome for arm in record.arms for trial in arm.trials]
    finals = [run.outcome for arm in record.arms for run in arm.finals]
    ends = (record.teacher, record.starting_student, *tests)
    yield from (outcome for outcome in (*ends, *trials, *finals) if outcome)
