"""Every hint that guides give is answered, in the words that ``docs/guidance.md`` quotes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sweeper.analysis.comparison import compare
from sweeper.analysis.findings import Finding
from sweeper.analysis.timing import ArmTiming
from sweeper.analysis.training_lessons import practice_lessons
from sweeper.commands.check.data import data_findings
from sweeper.commands.check.duration import time_findings
from sweeper.commands.check.duration_estimate import estimate
from sweeper.commands.check.models import pair_findings, size_finding, teacher_gap_finding
from sweeper.commands.check.settings import settings_findings
from sweeper.commands.init.draft import Request, study_text
from sweeper.commands.init.draft_study import draft_study
from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import LoadedStudy, load_study, schema
from sweeper.config.models import ModelConfig
from sweeper.foundation.errors import BadInputError, ConfigError
from sweeper.records import (
    DataCheck,
    Failure,
    FailureKind,
    Progress,
    RowsSummary,
    TokenizerSummary,
    TrialSpec,
)
from sweeper.records.remedies import divergence_remedies, memory_remedies
from sweeper.records.study_record import StudyRecord, TeacherGap
from sweeper.reporting.markdown.training import practice_sections
from sweeper.reporting.report_data import ReportData
from sweeper.study.jobs import RunningJob
from sweeper.tracking.mapping import curve_points, outcome_points
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import arm, completed, study, trial
from tests.support.memory_shapes import rows as memory_of
from tests.support.practice_examples import teaching
from tests.support.timings import pace, study_pace
from tests.support.tiny_studies import DATA, ROOT, write_yaml
from tests.support.trial_jobs import trial_spec

Row = tuple[str, str, str]


def rows() -> list[Row]:
    """The table's: hint, place, phrase."""
    lines = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| hint |"))
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[start + 2 :] if line]
    cells = [[cell.strip().replace("\\|", "|") for cell in row] for row in found]
    assert all(len(row) == 3 and all(row) for row in cells), cells
    return [(hint, place, phrase) for hint, place, phrase in cells]


def hints() -> list[str]:
    lines = (DATA / "hints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_hint_is_answered() -> None:
    assert list(dict.fromkeys(hint for hint, _, _ in rows())) == hints()
    assert len(set(rows())) == len(rows())


@pytest.mark.parametrize("place", sorted({place for _, place, _ in rows()}))
def test_what_is_quoted_is_said_there(
    place: str, tmp_path: Path, write_study: Callable[..., Path]
) -> None:
    said = " ".join(PLACES[place](tmp_path, write_study).split())
    for hint, where, phrase in rows():
        if where == place:
            assert phrase in said, hint


Say = Callable[[Path, Callable[..., Path]], str]


def _spec(write_study: Callable[..., Path], *, device: str = "cpu") -> TrialSpec:
    """A GKD trial of which everything can be said: nothing is done yet against anything."""
    training = {"gradient_accumulation_steps": 2, "max_length": 96}
    arms = {"gkd": {"settings": {"disable_dropout": False}}}
    made = trial_spec(load_study(write_study(arms=arms, training=training)), "gkd")
    return made.model_copy(update={"place": made.place.model_copy(update={"device": device})})


def _diverged(folder: Path, write_study: Callable[..., Path]) -> str:
    remedies = divergence_remedies(_spec(write_study))
    return Failure(kind="diverged", message="The loss is nan.", remedies=remedies).told()


def _out_of_memory(folder: Path, write_study: Callable[..., Path]) -> str:
    remedies = memory_remedies(_spec(write_study))
    return Failure(kind="out_of_memory", message="CUDA out of memory", remedies=remedies).told()


def _overdue(kind: FailureKind) -> Say:
    def say(folder: Path, write_study: Callable[..., Path]) -> str:
        job = RunningJob(_spec(write_study, device="cuda:0"))
        job.last = Progress(time=0.0, phase="train")
        limits = {"timeout": "trial_timeout", "stalled": "stall_timeout"}
        failure = job.overdue(ComputeConfig.model_validate({limits[kind]: 10}), 20.0)
        assert failure is not None and failure.kind == kind
        return failure.told()

    return say


def _advice(record: StudyRecord) -> str:
    comparison = compare(record)
    lessons = practice_lessons(record, comparison, None)
    return "\n".join(practice_sections(lessons, {"realised.png", "learning_curves.png"}))


@cache
def _confirmed() -> ReportData:
    return ReportData.of(confirmed_study())


def _report(folder: Path, write_study: Callable[..., Path]) -> str:
    return _advice(teaching()) + "\n".join(practice_sections(_confirmed().practice, set()))


def _poor_quality(folder: Path, write_study: Callable[..., Path]) -> str:
    poor = [trial(0, completed(0.31), lmbda=0.3, temperature=0.3)]
    return _advice(study([arm("gkd", poor)], teacher=0.9, student=0.3))


def _verdict(folder: Path, write_study: Callable[..., Path]) -> str:
    return _confirmed().headline


def _init(data: str) -> Say:
    def say(folder: Path, write_study: Callable[..., Path]) -> str:
        (folder / "rows.csv").write_text("prompt\n" + "one\ntwo\n" * 20, encoding="utf-8")
        path = folder / "rows.csv" if data == "prompts alone" else DATA / "gsm8k-train.jsonl"
        request = Request(folder / "study.yaml", "a/teacher", "a/student", str(path))
        return study_text(draft_study(request), Path("study.yaml"), "")

    return say


def _mlflow(folder: Path, write_study: Callable[..., Path]) -> str:
    row = Progress(time=0.0, phase="train", step=1, metrics={"loss": 1.0})
    ended = completed(0.5).model_copy(update={"peak_bytes": 2**30})
    points = [*curve_points([row]), *outcome_points(ended)]
    return " ".join(point.key for point in points)


def _teacher_key(folder: Path, write_study: Callable[..., Path]) -> str:
    path = write_study()
    values = YAML(typ="safe", pure=True).load(path)
    del values["teacher"]
    write_yaml(path, values)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    return str(caught.value)


def _flash_attention(folder: Path, write_study: Callable[..., Path]) -> str:
    from sweeper.distillation.models.loading import check_attention

    options = {"attn_implementation": "flash_attention_2"}
    with pytest.raises(BadInputError) as caught:
        check_attention(ModelConfig(model="a", init_kwargs=options))
    return str(caught.value)


def _installation(folder: Path, write_study: Callable[..., Path]) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return " ".join(project["project"]["dependencies"])


def _schema(folder: Path, write_study: Callable[..., Path]) -> str:
    return json.dumps(schema(), ensure_ascii=False).replace("\\n", " ")


def _check(what: str) -> Say:
    """The rows of a check that are called so: of a study in which much could be better."""

    def say(folder: Path, write_study: Callable[..., Path]) -> str:
        arms = {"gkd": {"settings": {"disable_dropout": False}}, "sft": None}
        training = {"gradient_accumulation_steps": 4}
        study = load_study(write_study(arms=arms, training=training))
        rows = [row for row in _findings(study) if row.what == what]
        return " ".join(f"{row.detail} {row.advice}" for row in rows)

    return say


def _findings(study: LoadedStudy) -> list[Finding]:
    rows = RowsSummary(rows=9, source="a.jsonl", columns=("q",), references=0, repeated=0)
    note = "the chat templates differ"
    tokens = TokenizerSummary(tokens=9, logits=9, chat=True, template_note=note, ends=("</s>",))
    lead = {"teacher": 0.5, "student": 0.5, "value": 0.0, "low": -0.1, "high": 0.1}
    heavy = pace(9.0, parts={"rollout": 4.0, "teacher": 4.0})
    gkd = ArmTiming(arm="gkd", method="gkd", lightest=heavy, heaviest=heavy)
    measured = study_pace(device="cuda:0")
    measured = measured.model_copy(update={"arms": (gkd, measured.arms[1])})
    seen = DataCheck(rows=rows, tokenizer=tokens)
    return [
        *(memory_of(gib) for gib in (40, 12, 4)),
        *settings_findings(study.config, ["cuda:0"], student=2 * 10**9),
        *pair_findings(seen),
        *data_findings(study, seen),
        size_finding(70 * 10**9, 10**9),
        teacher_gap_finding(TeacherGap(**lead, stderr=0.1, p=1.0, documents=9, paired=True)),
        *time_findings(study.config, measured, estimate(study.config, measured, 9)),
    ]


PLACES: dict[str, Say] = {
    "check: adapter": _check("adapter"),
    "check: attention": _check("attention"),
    "check: chat template": _check("chat template"),
    "check: dropout": _check("dropout"),
    "check: memory": _check("memory"),
    "check: slow training": _check("slow training"),
    "check: teacher's lead": _check("teacher's lead"),
    "check: teacher's size": _check("teacher's size"),
    "check: training data": _check("training data"),
    "check: vocabulary": _check("vocabulary"),
    "report": _report,
    "report: poor quality": _poor_quality,
    "verdict": _verdict,
    "failure: diverged": _diverged,
    "failure: out of memory": _out_of_memory,
    "failure: timeout": _overdue("timeout"),
    "failure: stalled": _overdue("stalled"),
    "init": _init("prompts and answers"),
    "init: prompts alone": _init("prompts alone"),
    "schema": _schema,
    "MLflow": _mlflow,
    "key: teacher": _teacher_key,
    "key: teacher.init_kwargs": _flash_attention,
    "installation": _installation,
}
