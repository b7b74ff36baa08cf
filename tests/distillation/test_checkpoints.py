"""Trials that are interrupted in training and go on, to the same last bit as undisturbed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sweeper.config.loading import load_study
from sweeper.config.settings import Method
from sweeper.execution.worker import scoring
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.run import run_job
from sweeper.foundation.files import read_json_lines
from sweeper.records import Outcome, TrialSpec
from sweeper.records.layout import JobPaths
from tests.support.trial_jobs import trial_spec

pytestmark = pytest.mark.slow

WriteStudy = Callable[..., Path]

STEPS = 11
EVERY = 3
TRAINING: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.3,
    "weight_decay": 0.1,
    "max_length": 96,
    # Neither divides the other: the loss is in the middle of an average when it is saved.
    "logging_steps": 2,
    "checkpoint_every": EVERY,
}
ARMS: dict[str, Any] = {
    "sft": None,
    "seqkd": None,
    "supervised_kd": None,
    "gkd": {"settings": {"lmbda": 0.5, "beta": 0.5, "max_new_tokens": 6}},
}
DROPOUT = {"model": "builtin/adder-student", "init_kwargs": {"attention_dropout": 0.2}}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Lets jobs end abruptly at the point of the training curve that is given."""
    report = ProgressWriter.train

    def die_at(step: int | None) -> None:
        def train(self: ProgressWriter, now: int, *point: Any) -> None:
            report(self, now, *point)
            if now == step:
                raise Killed

        monkeypatch.setattr(ProgressWriter, "train", train)

    return die_at


def make_spec(write_study: WriteStudy, method: Method, **changes: Any) -> TrialSpec:
    study = load_study(write_study(**{"training": TRAINING, "arms": ARMS, **changes}))
    return trial_spec(study, method)


def elsewhere(spec: TrialSpec, folder: Path, **settings: Any) -> TrialSpec:
    """The same trial in another directory, with changed settings."""
    folder.mkdir()
    return spec.model_copy(
        update={
            "place": spec.place.model_copy(update={"directory": str(folder)}),
            "settings": spec.settings.model_copy(update=settings),
        }
    )


def files_of(spec: TrialSpec) -> JobPaths:
    return JobPaths(Path(spec.place.directory))


def saved(spec: TrialSpec) -> list[str]:
    return sorted(path.name for path in files_of(spec).checkpoint.iterdir())


def curve(spec: TrialSpec) -> dict[int, dict[str, float]]:
    """The points of the training curve by step, without what depends on the clock."""
    rows, _ = read_json_lines(files_of(spec).progress)
    points: dict[int, dict[str, float]] = {}
    for row in rows:
        if metrics := row.get("metrics"):
            assert row["step"] not in points
            points[row["step"]] = without_seconds(metrics)
    return points


def without_seconds(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not name.startswith("seconds_")}


def start_again(spec: TrialSpec) -> None:
    """What the coordinator does before another attempt."""
    for path in files_of(spec).directory.iterdir():
        if path.is_file():
            path.unlink()


def interrupt(spec: TrialSpec, die: Callable[[int | None], None], step: int) -> None:
    die(step)
    with pytest.raises(Killed):
        run_job(spec)
    die(None)


def assert_same(spec: TrialSpec, outcome: Outcome, whole: TrialSpec, undisturbed: Outcome) -> None:
    """That two runs of a trial came to the same."""
    assert (outcome.state, undisturbed.state) == ("completed", "completed"), outcome.failure
    ours, theirs = (files_of(s).checkpoint / str(STEPS) for s in (spec, whole))
    for name in ("weights.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert outcome.scores is not None
    assert undisturbed.scores is not None
    assert outcome.scores.score == undisturbed.scores.score
    assert files_of(spec).documents.read_bytes() == files_of(whole).documents.read_bytes()
    assert curve(spec) == curve(whole)
    assert without_seconds(outcome.curve) == without_seconds(undisturbed.curve)
    for count in ("steps", "trained_tokens", "generated_tokens"):
        assert getattr(outcome.cost, count) == getattr(undisturbed.cost, count) >= 0
    assert outcome.cost.steps == STEPS
    assert outcome.collapse == undisturbed.collapse
    # Clocks that were started again would have lost whole parts.
    assert outcome.cost.seconds.keys() == undisturbed.cost.seconds.keys()


@pytest.mark.parametrize("method", ["sft", "seqkd", "supervised_kd", "gkd"])
def test_a_trial_that_is_killed_twice_ends_as_if_nothing_had_happened(
    write_study: WriteStudy, tmp_path: Path, die: Callable[[int | None], None], method: Method
) -> None:
    # So strict that a few rollouts are enough for a sign.
    strict = {"min_rollouts": 1, "grace": 0.0, "ended_share": 1.0}
    spec = make_spec(write_study, method, student=DROPOUT, collapse=strict)
    whole = elsewhere(spec, tmp_path / "whole")
    undisturbed = run_job(whole)
    assert bool(undisturbed.collapse) == (method == "gkd")
    plain = elsewhere(spec, tmp_path / "plain", checkpoint_every=None)
    assert run_job(plain).scores.score == undisturbed.scores.score  # type: ignore[union-attr]
    assert curve(plain) == curve(whole)
    assert not files_of(plain).checkpoint.exists()

    interrupt(spec, die, 4)
    assert saved(spec) == ["3"]
    start_again(spec)
    interrupt(spec, die, 10)
    assert saved(spec) == ["9"]
    start_again(spec)
    outcome = run_job(spec)
    assert saved(spec) == [str(STEPS)]
    assert_same(spec, outcome, whole, undisturbed)
    assert not list(files_of(spec).directory.glob(".trainer.*"))


@pytest.mark.parametrize(
    ("method", "optim"), [("sft", "adamw_torch"), ("gkd", "adamw_torch_fused")]
)
def test_an_adapter_with_dropout_goes_on_too(
    write_study: WriteStudy,
    tmp_path: Path,
    die: Callable[[int | None], None],
    method: Method,
    optim: str,
) -> None:
    spec = make_spec(
        write_study,
        method,
        student={"model": "builtin/adder-student", "lora": {"r": 2, "dropout": 0.3}},
        training={**TRAINING, "bf16": True, "optim": optim, "length_bucketing": False},
        arms={method: {"settings": {"disable_dropout": False}}},
    )
    whole = elsewhere(spec, tmp_path / "whole")
    undisturbed = run_job(whole)
    interrupt(spec, die, 6)
    start_again(spec)
    assert_same(spec, run_job(spec), whole, undisturbed)
    names = load_file(files_of(spec).checkpoint / str(STEPS) / "weights.safetensors")
    assert names
    assert all("lora_" in name for name in names)


def test_a_trial_that_is_killed_while_it_is_scored_does_not_train_again(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(write_study, "sft", training={**TRAINING, "bf16": True})
    whole = elsewhere(spec, tmp_path / "whole")
    undisturbed = run_job(whole)

    def killed(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "score", lambda *args, **kwargs: killed())
        with pytest.raises(Killed):
            run_job(spec)
    start_again(spec)
    with monkeypatch.context() as patched:
        patched.setattr(ProgressWriter, "train", killed)
        outcome = run_job(spec)
    assert_same(spec, outcome, whole, undisturbed)
    assert outcome.cost.device_seconds > outcome.finished - outcome.started


def test_progress_goes_on_from_the_checkpoint(
    write_study: WriteStudy, die: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(write_study, "sft")
    interrupt(spec, die, 8)
    before, _ = read_json_lines(files_of(spec).progress)
    start_again(spec)
    run_job(spec)
    assert "Training resumes from the checkpoint after step 6." in capsys.readouterr().out
    rows, _ = read_json_lines(files_of(spec).progress)
    points = [row for row in rows if row.get("metrics")]
    # Known again by their times, so that a tracker does not draw them twice.
    assert points[:3] == [row for row in before if row.get("metrics")][:3]
    training = [row["step"] for row in rows if row["phase"] == "train" and not row.get("metrics")]
    assert training == [0, 6]
    assert [row["step"] for row in points] == [2, 4, 6, 8, 10, 11]


def cut_weights(checkpoint: Path) -> None:
    whole = (checkpoint / "weights.safetensors").read_bytes()
    (checkpoint / "weights.safetensors").write_bytes(whole[: len(whole) // 2])


def turn_one_bit(checkpoint: Path) -> None:
    whole = bytearray((checkpoint / "optimizer.pt").read_bytes())
    whole[len(whole) // 2] ^= 1
    (checkpoint / "optimizer.pt").write_bytes(whole)


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "rng_state.pth").unlink()


def cut_manifest(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_text('{"format": 1, "work"')


def of_another_model(checkpoint: Path) -> None:
    """Everything fits but the weights themselves."""
    from sweeper.foundation.cache import file_hash

    save_file({"other": torch.zeros(1)}, checkpoint / "weights.safetensors")
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    digest = file_hash(checkpoint / "weights.safetensors")
    manifest["files"]["weights.safetensors"] = digest
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("code from a checkpoint was run",))


def poison(checkpoint: Path) -> None:
    """A file that was exchanged by someone who knows the format."""
    from sweeper.foundation.cache import file_hash

    torch.save({"python": Trap()}, checkpoint / "rng_state.pth")
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    manifest["files"]["rng_state.pth"] = file_hash(checkpoint / "rng_state.pth")
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint directory of a trial that was interrupted after its sixth step."""
    return tmp_path_factory.mktemp("interrupted") / "checkpoint"


@pytest.mark.parametrize(
    "damage", [cut_weights, turn_one_bit, lose_a_file, cut_manifest, of_another_model, poison]
)
def test_a_damaged_checkpoint_is_not_used(
    write_study: WriteStudy,
    tmp_path: Path,
    interrupted: Path,
    die: Callable[[int | None], None],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    spec = make_spec(write_study, "sft")
    if not interrupted.exists():
        interrupt(spec, die, 8)
        shutil.copytree(files_of(spec).checkpoint, interrupted)
        start_again(spec)
    shutil.rmtree(files_of(spec).checkpoint, ignore_errors=True)
    shutil.copytree(interrupted, files_of(spec).checkpoint)
    damage(files_of(spec).checkpoint / "6")
    capsys.readouterr()
    outcome = run_job(spec)
    assert outcome.state == "completed", outcome.failure
    assert outcome.cost.steps == STEPS
    assert list(curve(spec)) == [2, 4, 6, 8, 10, 11]
    said = capsys.readouterr().out
    assert "The checkpoint after step 6 is not used: it " in said
    assert "Training starts from the beginning." in said
    assert "resumes from" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"settings": {"learning_rate": 2e-3}},
        {"settings": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}},
        {"origin": {"seed": 99}},
        {"place": {"threads": 2}},
    ],
    ids=["seed", "setting", "smaller batches", "study's seed", "threads"],
)
def test_a_checkpoint_of_other_work_is_not_used(
    write_study: WriteStudy,
    die: Callable[[int | None], None],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
) -> None:
    spec = make_spec(write_study, "sft", training={**TRAINING, "max_steps": 4})
    interrupt(spec, die, 4)
    start_again(spec)
    update = {
        name: getattr(spec, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    assert run_job(spec.model_copy(update=update)).state == "completed"
    said = capsys.readouterr().out
    assert "is not used: it belongs to other settings" in said
    assert "resumes from" not in said


def test_how_often_is_saved_may_change_between_attempts(
    write_study: WriteStudy,
    die: Callable[[int | None], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = make_spec(write_study, "sft")
    interrupt(spec, die, 8)
    start_again(spec)
    oftener = spec.settings.model_copy(update={"checkpoint_every": 1})
    assert run_job(spec.model_copy(update={"settings": oftener})).state == "completed"
    assert "resumes from the checkpoint after step 6" in capsys.readouterr().out


def test_a_kill_while_a_checkpoint_is_written_leaves_the_former_one(
    write_study: WriteStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    die: Callable[[int | None], None],
) -> None:
    from transformers import TrainerState

    spec = make_spec(write_study, "sft")
    whole = elsewhere(spec, tmp_path / "whole")
    undisturbed = run_job(whole)
    save = TrainerState.save_to_json

    def killed(self: Any, path: str) -> None:
        if self.global_step == 6:
            # As a process that is gone leaves it: nothing is tidied up.
            shutil.copytree(Path(path).parent, tmp_path / "left")
            raise Killed
        save(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(TrainerState, "save_to_json", killed)
        with pytest.raises(Killed):
            run_job(spec)
    shutil.copytree(tmp_path / "left", files_of(spec).checkpoint / ".6")
    assert saved(spec) == [".6", "3"]
    start_again(spec)
    assert_same(spec, run_job(spec), whole, undisturbed)
    assert saved(spec) == [str(STEPS)]


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(write_study, "sft")
    files_of(spec).checkpoint.write_text("in the way")
    outcome = run_job(spec)
    assert outcome.state == "completed", outcome.failure
    said = capsys.readouterr().out
    assert (
        f"The checkpoint after step 3 could not be written to {files_of(spec).checkpoint}" in said
    )
    assert "Training continues." in said
