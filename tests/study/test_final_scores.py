"""What is read of winners that were trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.foundation.errors import SweeperError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import ConfirmationRun, Outcome, Scores
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import ArmRecord, Confirmation, Plan, TrialRecord
from sweeper.study.final_scores import MOST_POINTS, read_confirmation, read_confirmation_runs
from sweeper.study.results import selection_documents


def scores(value: float, *, higher_is_better: bool = True) -> Scores:
    return Scores(
        suite="s", suite_hash="h", score=value, stderr=0.1, higher_is_better=higher_is_better,
        tasks=(), seconds=0.0,
    )  # fmt: skip


def confirmation(tmp_path: Path, *, other_hash: str = "h1", share: float = 0.5) -> Confirmation:
    """Of two arms with one training each, on a test suite whose score is to be low."""
    paths = StudyPaths(tmp_path, "tiny")
    arms = []
    plan = Plan(
        suite_hash="h",
        declared=0.0,
        finals={
            arm: (ConfirmationRun(arm=arm, trial=0, seed=0, at="steps", max_steps=4),)
            for arm in ("gkd", "sft")
        },
        current={"gkd": (0,), "sft": (0,)},
    )
    for arm, value in (("gkd", 1.0), ("sft", 2.0)):
        files = paths.confirmation_run(arm, 0)
        outcome = Outcome(
            state="completed",
            scores=scores(0.5),
            test_scores=scores(value, higher_is_better=False),
            started=0.0,
            finished=1.0,
        )
        rows = [
            {
                "task": "t",
                "doc_id": number,
                "doc_hash": f"h{number}" if number == 0 or arm == "gkd" else other_hash,
                "cluster": f"h{number}",
                "score": value,
                "weight": 1.0,
                "share": share,
            }
            for number in range(2)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text_atomically(files.test_documents, text)
        write_text_atomically(files.outcome, outcome.model_dump_json())
        found = Outcome(state="completed", scores=scores(0.6), started=0.0, finished=1.0)
        trial = TrialRecord(number=0, state="completed", params={}, settings={}, outcome=found)
        arms.append(
            ArmRecord(
                name=arm, method=arm, budget=1, settings={}, search={}, trials=(trial,),  # type: ignore[arg-type]
                finals=read_confirmation_runs(paths, arm, plan),
            )
        )  # fmt: skip
    return read_confirmation(paths, plan, arms, higher_is_better=True)


def test_documents_of_the_selection_suite_are_read_without_those_that_it_leaves_out(
    tmp_path: Path,
) -> None:
    files = StudyPaths(tmp_path, "tiny").trial("gkd", 0)
    row = {"task": "t", "doc_id": 0, "doc_hash": "h", "cluster": "h", "score": 0.5}
    rows = [{**row, "share": -1.0}, {**row, "task": "watched", "share": 0.0}]
    write_text_atomically(files.documents, "".join(json.dumps(row) + "\n" for row in rows))
    [counted] = selection_documents(files)
    assert (counted.task, counted.value) == ("t", -0.5)
    write_text_atomically(files.documents, json.dumps(row) + "\n")
    assert selection_documents(files) == [], "an old row does not say what it counts"


def test_the_test_suite_has_a_direction_of_its_own(tmp_path: Path) -> None:
    found = confirmation(tmp_path).scores
    assert found is not None
    assert not found.higher_is_better
    assert [arm.scores for arm in found.arms] == [((1.0, 1.0),), ((2.0, 2.0),)]
    assert [arm.searched - arm.selection[0] for arm in found.arms] == pytest.approx([0.1, 0.1])


def test_the_same_documents_are_known_by_their_hash(tmp_path: Path) -> None:
    first, again = (confirmation(tmp_path / name).scores for name in ("a", "b"))
    other = confirmation(tmp_path / "c", share=0.25).scores
    assert first is not None and again is not None and other is not None
    assert first.documents_hash == again.documents_hash != other.documents_hash


def test_a_training_curve_is_thinned_and_keeps_the_yardstick(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "tiny")
    rows: list[dict[str, object]] = [{"phase": "load", "time": 0.0}]
    for step in range(1, 1001):
        metrics = {"loss": 1 / step, "grad_norm": 2.0}
        if step % 250 == 0:
            metrics["teacher_divergence"] = 1 / step
        rows.append({"phase": "train", "step": step, "metrics": metrics})
    # A training that goes on from a checkpoint repeats what came before.
    rows += [rows[1], {"phase": "train", "step": 2, "metrics": {"loss": float("nan")}}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text_atomically(paths.confirmation_run("gkd", 0).progress, text)
    final = ConfirmationRun(arm="gkd", trial=0, seed=0, at="steps", max_steps=1000)
    plan = Plan(suite_hash="h", declared=0.0, finals={"gkd": (final,)}, current={"gkd": (0,)})
    [found] = read_confirmation_runs(paths, "gkd", plan)
    assert len(found.curve) <= MOST_POINTS + 4
    steps = [point.step for point in found.curve]
    assert steps == sorted(set(steps)) and steps[-1] == 1000
    assert [p.step for p in found.curve if p.teacher_divergence] == [250, 500, 750, 1000]
    assert found.curve[-1].loss == pytest.approx(0.001)


def test_other_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SweeperError, match=r"sft/0000: expected scores of the same documents"):
        confirmation(tmp_path, other_hash="changed")
