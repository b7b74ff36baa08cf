"""Whole studies through the command line: real processes, Optuna, MLflow and lm-eval."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.tracking import MlflowClient

from sweeper.config.builtin import model_directory
from tests.support.study_folders import (
    documents,
    outcomes,
    params,
    run,
    scores,
    sweeper,
    trial_runs,
)
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import DATA, write_yaml
from tests.support.whole_studies import wait_beside

pytestmark = pytest.mark.slow


def test_one_command_from_study_to_report(write_study: Callable[..., Path]) -> None:
    study = write_study()
    done = run(study)
    directory = study.parent
    assert done.returncode == 0, done.stderr
    assert set(outcomes(directory)) == {"gkd/0000", "gkd/0001", "sft/0000", "sft/0001"}
    assert {outcome["state"] for outcome in outcomes(directory).values()} == {"completed"}
    assert all(len(rows.splitlines()) == 12 for rows in documents(directory).values())

    for arm in ("gkd", "sft"):
        storage = f"sqlite:///{directory / 'runs' / 'tiny' / 'study.db'}"
        trials = optuna.load_study(study_name=f"tiny/{arm}", storage=storage).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
        for trial in trials:
            assert trial.params == params(directory)[f"{arm}/{trial.number:04d}"]

    runs = trial_runs(directory)
    assert [found.info.status for found in runs] == ["FINISHED"] * 4
    for found in runs:
        name = f"{found.data.tags['sweeper.arm']}/{int(found.data.tags['sweeper.trial']):04d}"
        assert found.data.metrics["score/selection"] == scores(directory)[name]
        assert found.data.metrics["cost/steps"] == 4
        assert found.inputs.dataset_inputs

    report = sweeper(directory, "report", study.name, "--json")
    found = json.loads(report.stdout)
    assert found["schema_version"] == 1
    assert found["arms"]["gkd"]["trials"]["completed"] == 2
    best = found["arms"]["sft"]["best"]
    assert best["selection"]["score"] == scores(directory)[f"sft/{best['number']:04d}"]
    assert best["cost"]["steps"] == 4
    assert found["teacher"]["score"] > 0.9
    assert found["starting_student"]["score"] < found["teacher"]["score"]

    markdown = (directory / "reports" / "tiny" / "report.md").read_text()
    assert "supervised_kd" not in markdown
    assert len(list((directory / "reports" / "tiny").glob("*.png"))) >= 2
    assert "to the best" in done.stdout
    assert "gkd" in sweeper(directory, "status", study.name).stdout

    assert "!  max_new_tokens" in done.stdout and "✓  study file, vocabulary," in done.stdout
    checked = sweeper(directory, "check", study.name, "--json")
    [lead] = [
        finding
        for finding in json.loads(checked.stdout)["findings"]
        if finding["what"] == "teacher's lead"
    ]
    assert (lead["state"], found["teacher_lead"]["paired"]) == ("ok", True)

    before = {path: path.stat().st_mtime_ns for path in directory.glob("runs/**/outcome.json")}
    again = run(study)
    assert again.returncode == 0
    assert "✓  study file" not in again.stdout, "it is said once"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(trial_runs(directory)) == 4

    refused = run(study, "--set", "seed=4")
    assert refused.returncode == 2
    assert "seed: was 3, now 4" in refused.stderr
    more = run(study, "--set", "trials=3", "--set", "compute.workers=2")
    assert more.returncode == 0, more.stderr
    assert "!  max_new_tokens" in more.stdout, "another study is another preflight"
    assert len(outcomes(directory)) == len(trial_runs(directory)) == 6


@pytest.mark.soak
def test_the_same_study_twice_from_nothing(
    write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = write_study()
    assert run(study).returncode == 0
    second = tmp_path_factory.mktemp("second")
    for name in ("study.yaml", "selection.yaml", "test.yaml"):
        (second / name).write_text((study.parent / name).read_text())
    assert run(second / "study.yaml").returncode == 0
    assert params(study.parent) == params(second)
    assert documents(study.parent) == documents(second)


@pytest.mark.soak
def test_a_killed_run_goes_on_to_the_same_trials(
    write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = write_study(trials=3)
    assert run(study).returncode == 0
    second = tmp_path_factory.mktemp("second")
    for name in ("study.yaml", "selection.yaml", "test.yaml"):
        (second / name).write_text((study.parent / name).read_text())
    for trial in ("gkd/0000/progress.jsonl", "sft/0001/spec.json"):
        _run_until(second, second / "runs" / "tiny" / "arms" / trial, signal.SIGKILL)
    assert run(second / "study.yaml").returncode == 0
    assert params(second) == params(study.parent)
    assert documents(second) == documents(study.parent)
    found = trial_runs(second)
    assert sorted((r.data.tags["sweeper.arm"], r.data.tags["sweeper.trial"]) for r in found) == [
        (arm, str(number)) for arm in ("gkd", "sft") for number in range(3)
    ]
    assert {r.info.status for r in found} == {"FINISHED"}


@pytest.mark.soak
def test_a_run_that_is_killed_in_training_goes_on_from_a_checkpoint(
    write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    training = {
        "max_steps": 120,
        "per_device_train_batch_size": 2,
        "max_length": 96,
        "logging_steps": 7,
        "checkpoint_every": 30,
    }
    settings = {"lmbda": 0.5, "beta": 0.5, "max_new_tokens": 8}
    study = write_study(training=training, arms={"gkd": {"settings": settings}}, trials=1)
    assert run(study).returncode == 0
    second = tmp_path_factory.mktemp("second")
    for name in ("study.yaml", "selection.yaml", "test.yaml"):
        (second / name).write_text((study.parent / name).read_text())
    trial = second / "runs" / "tiny" / "arms" / "gkd" / "0000"
    _run_until(second, trial / "checkpoint" / "30", signal.SIGKILL)
    assert outcomes(second) == {}
    [step] = [path.name for path in (trial / "checkpoint").iterdir() if path.name.isdigit()]
    done = run(second / "study.yaml")
    assert done.returncode == 0, done.stderr

    log = (trial / "log.txt").read_text()
    assert f"Training resumes from the checkpoint after step {step}." in log
    rows = [json.loads(line) for line in (trial / "progress.jsonl").read_text().splitlines()]
    begun = [row["step"] for row in rows if row["phase"] == "train" and "metrics" not in row]
    assert begun[-1] == int(step) >= 30
    [first], [again] = outcomes(study.parent).values(), outcomes(second).values()
    assert (first["attempt"], again["attempt"]) == (1, 2)
    assert scores(second) == scores(study.parent)
    assert documents(second) == documents(study.parent)
    for name in ("steps", "trained_tokens", "generated_tokens"):
        assert first["cost"][name] == again["cost"][name] > 0
    assert first["curve"]["loss"] == again["curve"]["loss"]
    [found] = trial_runs(second)
    client = MlflowClient(f"sqlite:///{second / 'runs' / 'mlflow.db'}")
    points = {p.step: p.value for p in client.get_metric_history(found.info.run_id, "train/loss")}
    assert points == {row["step"]: row["metrics"]["loss"] for row in rows if "metrics" in row}
    for directory in (study.parent, second):
        assert not list(directory.glob("runs/tiny/arms/*/*/checkpoint"))


@pytest.mark.soak
def test_ctrl_c_twice_stops_now_and_can_be_continued(write_study: Callable[..., Path]) -> None:
    study = write_study(training={"max_steps": 400, "per_device_train_batch_size": 2})
    directory = study.parent
    progress = directory / "runs" / "tiny" / "arms" / "gkd" / "0000" / "progress.jsonl"
    process = _run_until(directory, progress, signal.SIGINT, twice=True)
    assert process.returncode == 130
    assert "sweeper run study.yaml" in process.stdout
    assert outcomes(directory) == {}
    assert "Traceback" not in process.stdout + process.stderr


@pytest.mark.soak
def test_failing_trials_are_recorded_and_the_study_goes_on(
    write_study: Callable[..., Path],
) -> None:
    rates = {"type": "categorical", "choices": [1e-3, 1e30]}
    study = write_study(
        arms={"sft": {"search": {"learning_rate": rates}}},
        sampler="grid",
        training={"max_steps": 8, "per_device_train_batch_size": 2, "logging_steps": 1},
    )
    done = run(study)
    assert done.returncode == 0, done.stderr
    states = [outcome["state"] for outcome in outcomes(study.parent).values()]
    assert sorted(states) == ["completed", "failed"]
    assert "diverged" in done.stdout
    assert sorted(r.info.status for r in trial_runs(study.parent)) == ["FAILED", "FINISHED"]


def failure_of(study: Path, *arguments: str) -> dict[str, Any]:
    """How the only trial of a study ends."""
    done = run(study, *arguments)
    assert done.returncode == 1, done.stderr
    assert "Every trial failed" in done.stdout
    assert "Traceback" not in done.stderr
    [outcome] = outcomes(study.parent).values()
    assert isinstance(outcome["failure"], dict)
    assert outcome["failure"]["message"] in " ".join(done.stdout.split())
    return outcome


@pytest.mark.parametrize(
    ("key", "kind", "seconds"),
    [
        pytest.param("trial_timeout", "timeout", 12, marks=pytest.mark.soak),
        ("stall_timeout", "stalled", 6),
    ],
)
@pytest.mark.soak
def test_a_trial_that_takes_too_long_is_ended(
    write_study: Callable[..., Path], key: str, kind: str, seconds: int
) -> None:
    # So many steps between two points of the curve look like none.
    training = {"max_steps": 10**6, "per_device_train_batch_size": 2, "logging_steps": 10**6}
    study = write_study(arms={"sft": {}}, training=training, compute={key: f"{seconds}s"})
    outcome = failure_of(study)
    assert outcome["failure"]["kind"] == kind
    assert f"{seconds} s (compute.{key}), in phase 'train'" in outcome["failure"]["message"]
    assert outcome["cost"]["device_seconds"] > 2
    [found] = trial_runs(study.parent)
    assert found.info.status == "FAILED"


@pytest.mark.soak
def test_a_trial_that_is_out_of_memory_runs_once_more_in_smaller_batches(
    write_study: Callable[..., Path],
) -> None:
    # About 7 GiB with all rows in one micro-batch, less than 5 with half of them.
    training = {"max_steps": 1, "per_device_train_batch_size": 4096, "max_length": 96}
    study = write_study(arms={"sft": {}}, training=training, compute={"memory_limit": 6})
    done = run(study)
    assert done.returncode == 0, done.stderr
    assert "ran out of memory; it runs again in smaller batches" in " ".join(done.stdout.split())
    [outcome] = outcomes(study.parent).values()
    assert (outcome["state"], outcome["attempt"]) == ("completed", 2)
    trial = study.parent / "runs" / "tiny" / "arms" / "sft" / "0000"
    first = json.loads((trial / "attempts" / "1" / "outcome.json").read_text())
    assert first["failure"]["kind"] == "out_of_memory"
    specs = [json.loads((trial / at / "spec.json").read_text()) for at in ("attempts/1", "")]
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
    assert [[spec["settings"][name] for name in sizes] for spec in specs] == [[4096, 1], [2048, 2]]


@pytest.mark.soak
def test_a_trial_that_is_out_of_memory_while_it_is_scored_is_not_trained_again(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    # Eager attention on 1,000 tokens takes about 25 MiB a document: 1.6 GiB for all at a time.
    long = {"max_position_embeddings": 4096}
    models = [make_tiny(tmp_path / name, "qwen2", **long) for name in ("teacher", "student")]
    rows = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(8)]
    documents = [{"text": f"{n} " * 350, "answer": f"{n}"} for n in range(10, 74)]
    for name, lines in (("rows", rows), ("documents", documents)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    task = {
        "task": "long",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "documents.jsonl"}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks").mkdir()
    write_yaml(tmp_path / "tasks" / "long.yaml", {**task, **{"num_fewshot": 0}})
    (tmp_path / "documents.jsonl").rename(tmp_path / "tasks" / "documents.jsonl")
    tasks = [{"task": "long", "documents": [0, 64], "metric": "acc"}]
    write_yaml(tmp_path / "long.yaml", {"suite": "long", "task_paths": ["tasks"], "tasks": tasks})
    study = write_study(
        trials=1,
        teacher={"model": models[0]},
        student={"model": models[1], "init_kwargs": {"attn_implementation": "eager"}},
        data={"train": {"path": "rows.jsonl"}},
        training={"max_steps": 2, "per_device_train_batch_size": 2, "max_length": 96},
        arms={"sft": {}},
        evaluation={"selection": "long.yaml", "batch_size": 64},
        compute={"memory_limit": 2.5},
    )
    done = run(study)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "sft #0 ran out of memory while it was scored; it was scored again with a" in said
    [outcome] = outcomes(study.parent).values()
    assert (outcome["state"], outcome["attempt"]) == ("completed", 1)
    assert outcome["scores"]["batch_size"] in (2, 4, 8, 16, 32)
    trial = study.parent / "runs" / "tiny" / "arms" / "sft" / "0000"
    assert not (trial / "attempts").exists()
    phases = [json.loads(line) for line in (trial / "progress.jsonl").read_text().splitlines()]
    assert sum(row["phase"] == "train" and row.get("step") == 0 for row in phases) == 1
    assert sum(row["phase"] == "evaluate" for row in phases) > 1
    report = (study.parent / "reports" / "tiny" / "report.md").read_text()
    assert "ran out of memory while they were scored" in report


@pytest.mark.soak
def test_a_trial_is_out_of_memory_for_good(write_study: Callable[..., Path]) -> None:
    training = {"max_steps": 1, "per_device_train_batch_size": 8192, "max_length": 96}
    study = write_study(arms={"sft": {}}, training=training, compute={"memory_limit": 2})
    outcome = failure_of(study)
    assert outcome["failure"]["kind"] == "out_of_memory"
    assert outcome["attempt"] == 2


@pytest.mark.soak
def test_a_score_that_collapsed(write_study: Callable[..., Path]) -> None:
    evaluation = {"selection": "selection.yaml", "collapsed_score": 1.0}
    outcome = failure_of(write_study(arms={"sft": {}}, evaluation=evaluation))
    assert outcome["failure"]["kind"] == "diverged"
    assert "evaluation.collapsed_score" in outcome["failure"]["message"]


@pytest.mark.soak
def test_what_only_a_worker_can_see_is_told_with_its_place(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "1+1?", "a": "#2"}\n')
    study = write_study(data={"train": {"path": "rows.jsonl"}})
    done = run(study)
    assert done.returncode == 2
    assert "data.train" in done.stderr
    assert "study.yaml:" in done.stderr
    assert "a, q" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.soak
def test_bad_input_of_one_arm_stops_the_study_and_can_be_mended(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other-teacher"
    arms = {"supervised_kd": {"settings": {"teacher.model": str(other)}}}
    study = write_study(arms=arms)
    done = run(study)
    assert done.returncode == 2
    assert "other-teacher" in done.stderr
    assert "Traceback" not in done.stderr
    other.symlink_to(model_directory("adder-teacher"))
    assert run(study).returncode == 0
    assert set(outcomes(tmp_path)) == {"supervised_kd/0000"}
    assert [found.info.status for found in trial_runs(tmp_path)] == ["FINISHED"]


def test_libraries_that_cannot_be_imported_are_reported(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken" / "lm_eval").mkdir(parents=True)
    (tmp_path / "broken" / "lm_eval" / "__init__.py").write_text("raise ImportError('no luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    done = run(write_study())
    assert done.returncode == 1
    assert "the libraries cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
    log = tmp_path / "runs" / "tiny" / "preparation" / "data" / "log.txt"
    assert "no luck" in log.read_text()


@pytest.mark.soak
def test_prompts_in_two_places_are_refused(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    from sweeper.config.builtin import dataset

    shared = dataset("addition", "test")[13]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(shared) + "\n")
    done = run(write_study(data={"train": {"path": "rows.jsonl"}}))
    assert done.returncode == 2
    assert (
        "evaluation.test: expected prompts of its own, but 1 of the suite test are" in done.stderr
    )
    assert "✓  study file, vocabulary" in done.stdout
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    assert "tiny" not in [found.name for found in client.search_experiments()]
    write_yaml(tmp_path / "test.yaml", {**_suite(tmp_path / "selection.yaml"), "suite": "test"})
    study = tmp_path / "study.yaml"
    study.write_text(study.read_text().replace("rows.jsonl", "builtin/addition"))
    done = run(study)
    assert done.returncode == 2
    assert "also in the suite selection" in done.stderr


@pytest.mark.soak
def test_rows_that_a_user_brings(
    write_study: Callable[..., Path], tmp_path: Path, tiny_teacher: str, tiny_student: str
) -> None:
    """Question and answer columns, chat models with an adapter, a suite of the user's own."""
    write_study()
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_yaml(
        tasks / "gsm.yaml",
        {
            "task": "gsm",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(DATA / "gsm8k-test.jsonl")}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer.split('####')[-1].strip()}}",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
        },
    )
    write_yaml(
        tasks / "answers.yaml",
        {
            "task": "answers",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(DATA / "gsm8k-test.jsonl")}},
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "byte_perplexity"}],
        },
    )
    for name, first, end in (("selection", 0, 8), ("test", 8, 16)):
        write_yaml(
            tmp_path / f"{name}.yaml",
            {
                "suite": name,
                "tasks": [
                    {"task": "gsm", "documents": [first, end]},
                    {"task": "answers", "documents": [first, end], "metric": "byte_perplexity"},
                ],
            },
        )
    study = write_yaml(
        tmp_path / "study.yaml",
        {
            "study": "tiny",
            "seed": 1,
            "trials": 1,
            "teacher": {"model": tiny_teacher},
            "student": {"model": tiny_student, "lora": {"r": 4, "alpha": 8}},
            "warm_start": {"max_steps": 2},
            "data": {
                "train": {
                    "path": str(DATA / "gsm8k-train.jsonl"),
                    "columns": {"prompt": "question", "completion": "answer"},
                },
                "system_prompt": "Solve it.",
            },
            "teacher_outputs": {"max_new_tokens": 8},
            "training": {"max_steps": 2, "per_device_train_batch_size": 2, "max_length": 700},
            "arms": {
                "gkd": {
                    "settings": {"seq_kd": True, "max_new_tokens": 6},
                    "search": {
                        "lmbda": {"type": "float", "low": 0.2, "high": 1.0},
                        "lora.r": {"type": "int", "low": 2, "high": 4},
                        "teacher.model": {
                            "type": "categorical",
                            "choices": [tiny_teacher, tiny_student],
                        },
                        "disable_dropout": {"type": "categorical", "choices": [True, False]},
                    },
                },
                "sft": None,
                "seqkd": None,
                "supervised_kd": None,
            },
            "evaluation": {"selection": "selection.yaml", "test": "test.yaml"},
            "confirm": {"seeds": 0},
        },
    )
    done = run(study)
    assert done.returncode == 0, done.stderr
    assert len(outcomes(tmp_path)) == 4
    for outcome in outcomes(tmp_path).values():
        assert outcome["state"] == "completed"
        assert [task["task"] for task in outcome["scores"]["tasks"]] == ["gsm", "answers"]
        assert outcome["scores"]["tasks"][1]["metric"] == "nats_per_byte"


def _suite(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())
    return loaded


def _run_until(
    directory: Path, sign: Path, number: signal.Signals, *, twice: bool = False
) -> subprocess.CompletedProcess[str]:
    """Start the study, send ``number`` once ``sign`` exists, and wait for the end."""
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_beside(process, sign.exists)
        os.kill(process.pid, number)
        if twice:
            assert process.stdout is not None
            for line in process.stdout:
                if "Stopping" in line:
                    break
            os.kill(process.pid, number)
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
