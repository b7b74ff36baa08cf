"""What a preflight says of facts: pure functions, each fact by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.findings import Finding
from sweeper.analysis.pair import summarize_pairs
from sweeper.commands.check.data import length_findings
from sweeper.commands.check.machine import (
    machine_findings,
    on_this_machine,
    precision_findings,
    sharing_findings,
)
from sweeper.commands.check.models import pair_findings, size_finding, teacher_gap_finding
from sweeper.commands.check.power import confirmation_finding, design_findings
from sweeper.commands.check.settings import settings_findings
from sweeper.config.loading import load_study
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import usable_devices
from sweeper.execution.devices import lacks_bfloat16
from sweeper.records import Lengths, TokenLengths
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import TeacherGap
from tests.support.gpus import report_gpus
from tests.support.pairs import answer, diagnosis, prompt
from tests.support.tiny_studies import adder_study

LONG = Lengths(count=1000, percentiles=tuple(range(0, 202, 2)))
"""From 0 to 200 tokens, evenly."""


BFLOAT16_SCORES = {**adder_study()["evaluation"], "dtype": "bfloat16"}


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(adder_study(**changes))


def told(findings: list[Finding], what: str) -> list[tuple[str, str]]:
    return [
        (found.state, f"{found.detail} {found.advice}") for found in findings if found.what == what
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"student": {"model": "m", "lora": {"r": 8, "dropout": 0.1}}},
            "student.lora.dropout changes nothing at disable_dropout: true",
        ),
        ({"training": {"checkpoint_every": 50, "max_steps": 40}}, "trainings of 40 steps"),
        ({"arms": {"sft": {}}, "sampler": "random"}, "sampler changes nothing as no arm searches"),
        ({"margin": 0.1}, "margin changes nothing without a confirmation"),
        (
            {
                "data": {"train": {"path": "x.jsonl"}, "assistant_turns": "all"},
                "arms": {"gkd": {"settings": {"lmbda": 1.0}}, "seqkd": {}},
            },
            "data.assistant_turns changes nothing without an arm or a warm start that trains",
        ),
        ({"arms": {"sft": {}}}, "teacher_outputs changes nothing"),
        (
            {"arms": {"sft": {}}, "collapse": "stop"},
            "collapse changes nothing without an arm",
        ),
        ({"collapse": "stop"}, "too few windows of 32 can be judged"),
    ],
)
def test_a_setting_that_does_nothing_is_named(changes: dict[str, Any], said: str) -> None:
    rows = told(settings_findings(config(**changes)), "settings")
    assert any(state == "warning" and said in text for state, text in rows), rows


def test_a_study_whose_settings_all_count_is_told_so() -> None:
    study = adder_study()
    del study["teacher_outputs"]
    [(state, text)] = told(settings_findings(StudyConfig.model_validate(study)), "settings")
    assert (state, text.strip()) == ("ok", "every setting that is written has an effect")


def test_dropout_is_advised_against_where_it_is_fixed_and_named_where_it_is_searched() -> None:
    search = {"disable_dropout": {"type": "categorical", "choices": [True, False]}}
    arms = {"sft": {"search": search}}
    [(state, text)] = told(settings_findings(config(arms=arms)), "dropout")
    assert (state, text.strip()) == ("ok", "searched in sft, off in the other arms")
    arms["gkd"] = {"settings": {"disable_dropout": False}}
    [(state, text)] = told(settings_findings(config(arms=arms)), "dropout")
    assert state == "warning" and "gkd: disable_dropout: false makes training less stable" in text


def test_attention_is_spoken_of_where_there_is_a_gpu() -> None:
    assert not told(settings_findings(config(), ["cpu"]), "attention")
    usual = {"teacher": "sdpa", "student": "eager"}
    [(_, text)] = told(settings_findings(config(), ["cuda:0"], attention=usual), "attention")
    assert "sdpa in the teacher, eager in the student" in text and "Leave" not in text
    [(_, text)] = told(settings_findings(config(), ["cuda:0"]), "attention")
    assert "the default attention in the teacher" in text
    slow = {"model": "m", "init_kwargs": {"attn_implementation": "eager"}}
    for has, advised in (("sdpa", True), ("eager", False)):
        usual = {"teacher": has, "student": "sdpa"}
        found = settings_findings(config(teacher=slow), ["cuda:0"], attention=usual)
        [(_, text)] = told(found, "attention")
        assert ("Leave attn_implementation: eager out" in text) is advised


def test_a_large_student_is_better_trained_through_an_adapter() -> None:
    for parameters, state in ((494_000_000, "ok"), (1_540_000_000, "warning")):
        [(found, text)] = told(settings_findings(config(), student=parameters), "adapter")
        assert found == state and "student's" in text
    lora = {"model": "m", "lora": {"r": 8}}
    [(found, _)] = told(settings_findings(config(student=lora), student=10**10), "adapter")
    assert found == "ok"


@pytest.mark.parametrize(
    ("teacher", "state", "said"),
    [(1.5e9, "ok", "3 times"), (0.5e9, "warning", "little more"), (7e9, "warning", "beyond")],
)
def test_a_teacher_should_be_two_to_four_times_as_large(
    teacher: float, state: str, said: str
) -> None:
    found = size_finding(int(teacher), 500_000_000)
    assert found.state == state and said in f"{found.detail} {found.advice}"


def test_shares_are_counted_in_hundredths_by_nearest_rank() -> None:
    assert [LONG.longer_than(limit) for limit in (0, 100, 199, 200)] == [1.0, 0.5, 0.01, 0.0]


def lengths(**changes: Any) -> TokenLengths:
    values = {
        "max_length": 512,
        "prompts": LONG,
        "references": LONG,
        "sequences": LONG,
        "dropped": 0,
        "cut": 0,
    }
    return TokenLengths(**{**values, **changes})


def length_rows(study: StudyConfig, lengths: TokenLengths) -> list[Finding]:
    answers = study.teacher_outputs.max_new_tokens if study.needs_teacher_outputs() else None
    return length_findings(lengths, study.arms, answers)


def test_references_longer_than_rollouts_are_counted_at_both_ends_of_a_range() -> None:
    search = {"max_new_tokens": {"type": "int", "low": 50, "high": 200}}
    study = config(
        arms={
            "gkd": {"search": search},
            "fixed": {"method": "gkd", "settings": {"max_new_tokens": 192}},
            "offline": {"method": "gkd", "settings": {"lmbda": 0.0}},
        },
    )
    rows = told(length_rows(study, lengths()), "max_new_tokens")
    assert [state for state, _ in rows] == ["warning", "ok"]
    assert (
        "gkd: 75 % of the references are longer than 50 tokens, none longer than 200" in rows[0][1]
    )
    assert "write max_new_tokens: 192 as its lowest value" in rows[0][1]
    assert "fixed: 4 % of the references are longer than 192 tokens" in rows[1][1]
    assert not any("offline" in text for _, text in rows)


def test_the_teachers_answers_are_held_against_the_references_too() -> None:
    study = config(arms={"seqkd": {}}, teacher_outputs={"max_new_tokens": 100})
    [(state, text)] = told(length_rows(study, lengths()), "teacher outputs")
    assert state == "warning" and "50 % of the references are longer than 100" in text
    assert "teacher_outputs.max_new_tokens: 192" in text
    assert not told(length_rows(study, lengths(references=None)), "teacher outputs")


def test_what_max_length_cuts_is_counted_with_a_length_that_would_do() -> None:
    [(state, text)] = told(length_rows(config(), lengths(dropped=3, cut=40)), "max_length")
    assert state == "warning"
    assert "3 of 1,000 prompts are too long and left out" in text
    assert "40 of 1,000 references are cut" in text
    assert "max_length: 224" in text


def test_an_arm_may_cut_more_than_the_study() -> None:
    search = {"max_length": {"type": "categorical", "choices": [300, 150]}}
    study = config(arms={"sft": {"search": search}, "seqkd": {"settings": {"max_length": 200}}})
    first, second = told(length_rows(study, lengths()), "max_length")
    assert first[0] == "ok"
    assert "sft: 25 % of the prompts with their references are longer than 150" in second[1]


@pytest.mark.parametrize(
    ("seeds", "comparisons", "said"),
    [
        (0, 3, "confirm.seeds is 0"),
        (2, 3, "too few to measure how seeds differ"),
        (None, 3, "there is no test suite"),
        (5, 0, "there is one arm"),
    ],
)
def test_a_study_that_proves_nothing_is_warned(
    seeds: int | None, comparisons: int, said: str
) -> None:
    finding = confirmation_finding(seeds, comparisons)
    assert (finding.state, finding.what) == ("warning", "confirmation")
    assert said in finding.detail


def test_one_document_is_a_warning() -> None:
    [found], design = design_findings(1, 5, 3, None, (), "")
    assert (found.state, found.what, design) == ("warning", "test suite", None)
    assert design_findings(None, 5, 3, None, (), "") == ([], None)


@pytest.mark.parametrize(
    ("value", "p", "state", "said"),
    [
        (0.2, 0.001, "ok", "measurably better"),
        (0.2, 0.2, "warning", "not measurably better"),
        (-0.2, 0.001, "warning", "is worse than the starting student"),
    ],
)
def test_a_teacher_that_does_not_lead_is_a_warning(
    value: float, p: float, state: str, said: str
) -> None:
    lead = TeacherGap(
        teacher=0.5 + value,
        student=0.5,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        stderr=0.05,
        p=p,
        documents=40,
        paired=True,
    )
    found = teacher_gap_finding(lead)
    assert found.state == state and said in found.detail
    assert bool(found.advice) == (state == "warning")


def test_a_pair_is_told_with_what_each_number_means_and_when_to_worry() -> None:
    sound = list(pair_findings(summarize_pairs(diagnosis())))
    assert {finding.state for finding in sound} == {"ok"}
    assert all("Worry if" in finding.advice for finding in sound[1:])
    [(_, basis)] = told(sound, "pair")
    assert "8 training prompts" in basis and "64 tokens of the student" in basis
    cut = list(pair_findings(summarize_pairs(diagnosis(*[prompt(answer(ended=False))] * 4))))
    [(state, text)] = told(cut, "length and end")
    assert state == "warning" and "0 % [0, 49] ended" in text and "Raise max_new_tokens" in text
    assert [finding.what for finding in cut if finding.state == "warning"] == ["length and end"]
    assert all("Worry if" in finding.advice for finding in cut[1:])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"training": {"bf16": True}},
            "training.bf16: true computes in bfloat16, for which cpu has no instructions: a step"
            " may take several times as long as in float32 Write bf16: false.",
        ),
        (
            {"arms": {"sft": {"settings": {"bf16": True}}}},
            "arms.sft.settings.bf16: true computes",
        ),
        (
            {"teacher": {"model": "t", "dtype": "bfloat16"}, "evaluation": BFLOAT16_SCORES},
            "evaluation.dtype: bfloat16 and teacher.dtype: bfloat16 compute",
        ),
    ],
)
def test_bfloat16_is_warned_of_where_it_is_slow(changes: dict[str, Any], said: str) -> None:
    [(state, text)] = told(machine_findings(config(**changes), ["cpu"], {}), "precision")
    assert state == "warning" and text.startswith(said)
    assert machine_findings(config(**changes), [], {}) == []


def test_float32_is_fast_anywhere() -> None:
    assert machine_findings(config(), ["cpu"], {"HF_HOME": "x", "PATH": "y"}) == []


def test_variables_that_do_not_reach_trials_are_named() -> None:
    environment = {"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "bf16", "HF_HOME": "x"}
    [(state, text)] = told(machine_findings(config(), [], environment), "environment")
    assert state == "warning"
    assert text.startswith("ACCELERATE_MIXED_PRECISION and WORLD_SIZE do not reach trials")


@pytest.mark.parametrize(
    ("capability", "training", "said"),
    [
        (
            "9.0",
            {},
            "bf16: true, tf32: true, optim: adamw_torch_fused by default on GPU 9.0"
            " (compute capability 9.0)",
        ),
        ("9.0", {"bf16": False}, "tf32: true, optim: adamw_torch_fused by default on GPU 9.0"),
        ("7.0", {}, "bf16: false, tf32: false, optim: adamw_torch by default on GPU 7.0"),
        (None, {}, "bf16: false, tf32: false, optim: adamw_torch by default on CPU"),
        ("7.0", {"tf32": True}, "training.tf32: true changes nothing on GPU 7.0"),
        (None, {"tf32": True}, "training.tf32: true changes nothing on CPU, which has no TF32"),
    ],
)
def test_what_a_study_takes_from_its_devices_is_shown(
    write_study: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: str | None,
    training: dict[str, Any],
    said: str,
) -> None:
    if capability is not None:
        report_gpus(monkeypatch, tmp_path, 2, capabilities=(capability,))
    device = "cpu" if capability is None else "cuda"
    keys = {"max_steps": 2, **training}
    written = load_study(write_study(training=keys, compute={}))
    compute = written.config.compute.model_copy(update={"device": device})
    study = replace(written, config=written.config.model_copy(update={"compute": compute}))
    study = on_this_machine(study, StudyPaths(tmp_path / "runs", "tiny"))
    rows = told(precision_findings(study, usable_devices(compute)), "precision")
    assert any(text.startswith(said) for _, text in rows), rows
    warned = [text for state, text in rows if state == "warning"]
    assert bool(warned) == ("changes nothing" in said)
    # Every finding that a device is slow in what it computes is made of what was taken.
    slow = [name for name in usable_devices(compute) if lacks_bfloat16(name)]
    assert not (study.config.training.bf16 and slow and capability)


@pytest.mark.parametrize(
    ("jobs", "changes", "warned"),
    [
        (1, {}, False),
        (2, {}, True),
        (2, {"compare_at": ["steps", "tokens"]}, False),
        (2, {"confirm": {"seeds": 0}}, False),
    ],
)
def test_trials_that_share_a_gpu_cannot_be_compared_by_their_seconds(
    jobs: int, changes: dict[str, Any], warned: bool
) -> None:
    evaluation = {"selection": "selection.yaml", "test": "test.yaml"}
    study = config(**{"evaluation": evaluation, "confirm": {"seeds": 2}, **changes})
    rows = told(sharing_findings(study, jobs), "devices")
    assert [state for state, _ in rows] == ["warning"] * warned
    assert all("2 trials share a GPU" in text for _, text in rows)
