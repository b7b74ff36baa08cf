"""What may change in a study that was started, and what would make it another study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.foundation.errors import StudyChangedError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import Outcome
from sweeper.records.layout import StudyPaths
from sweeper.search.arm_search import ArmSearch
from sweeper.search.storage import open_storage
from sweeper.study.manifest import (
    StudyManifest,
    open_manifest,
    read_manifest,
    suite_spec,
    version_changes,
    with_scoring_dtype,
)
from sweeper.study.preparation import is_done, make_spec, make_study_inputs

TASK = "task: mine\ndataset_path: json\noutput_type: generate_until\n"
ROWS = '{"question": "1+1", "answer": "2"}\n'


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., StudyManifest]:
    """Starts, or goes on with, a study that has files of its own."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mine.yaml").write_text(TASK, encoding="utf-8")
    (tasks / "helpers.py").write_text("def f(): ...\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    for name in ("selection", "test"):
        text = f"suite: {name}\ntasks: [{{task: mine}}]\n"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        "study: mine\nseed: 1\ntrials: 4\n"
        "teacher: {model: builtin/adder-teacher}\nstudent: {model: builtin/adder-student}\n"
        "data: {train: {path: rows.jsonl}}\n"
        "arms:\n"
        "  gkd: {search: {lmbda: {type: float, low: 0.0, high: 1.0}}}\n"
        "  sft: {trials: 3}\n"
        "evaluation: {selection: selection.yaml, test: test.yaml}\n",
        encoding="utf-8",
    )

    def start(
        *overrides: str, command: str = "run", threads: int = 2, trials: bool = True
    ) -> StudyManifest:
        study = load_study(tmp_path / "study.yaml", overrides)
        manifest = open_manifest(study, paths(tmp_path), ["sweeper", command], threads)
        if trials:
            write_text_atomically(paths(tmp_path).trial("gkd", 0).spec, "{}")
        return manifest

    return start


def paths(folder: Path) -> StudyPaths:
    return StudyPaths(folder / "runs", "mine")


def test_a_study_that_was_never_started_has_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(paths(tmp_path)) is None


def test_what_is_recorded_is_read_back(start: Callable[..., StudyManifest], tmp_path: Path) -> None:
    first = start()
    assert read_manifest(paths(tmp_path)) == first
    assert set(first.files) == {"suite selection", "suite test", "data rows.jsonl"}
    assert first.provenance.command == "sweeper run"
    assert first.provenance.versions["sweeper"]


def test_an_unchanged_study_goes_on_with_its_first_provenance(
    start: Callable[..., StudyManifest],
) -> None:
    first = start()
    assert start(command="again", threads=7) == first


NAMED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "float32"),
    "the key": (["evaluation.dtype=float16", "student.dtype=bfloat16"], "float16"),
    "the student's type": (["student.dtype=bfloat16", "teacher.dtype=float16"], "bfloat16"),
    "float32 by the student": (["student.dtype=float32", "teacher.dtype=float16"], "float32"),
    "the teacher's type": (["teacher.dtype=bfloat16"], "bfloat16"),
    "bf16 trainings": (["training.bf16=true"], "bfloat16"),
    "fp16 trainings": (["training.fp16=true"], "float16"),
}


@pytest.mark.parametrize(("overrides", "expected"), NAMED.values(), ids=NAMED)
def test_the_precision_of_scores_is_the_first_that_the_study_names(
    start: Callable[..., StudyManifest], overrides: list[str], expected: str, tmp_path: Path
) -> None:
    manifest = start(*overrides)
    assert manifest.config.evaluation.dtype == expected
    study = load_study(tmp_path / "study.yaml", overrides)
    assert make_study_inputs(study, manifest, tmp_path).evaluation.dtype == expected
    # Declared as it was by default, it is no change; any other is.
    declared = start(*overrides, f"evaluation.dtype={expected}")
    assert (declared.identity, declared.config) == (manifest.identity, manifest.config)
    other = "bfloat16" if expected == "float32" else "float32"
    message = rf'evaluation\.dtype: was "{expected}", now "{other}"'
    with pytest.raises(StudyChangedError, match=message):
        start(*overrides, f"evaluation.dtype={other}")


def test_a_study_that_declared_no_precision_goes_on_without(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    recorded = start("training.bf16=true")
    content = json.loads(recorded.model_dump_json())
    del content["config"]["evaluation"]["dtype"]
    write_text_atomically(paths(tmp_path).manifest, json.dumps(content))
    resumed = start("training.bf16=true", "trials=9")
    assert resumed.config.evaluation.dtype is None
    assert resumed.identity == recorded.identity
    study = load_study(tmp_path / "study.yaml", ["training.bf16=true"])
    assert make_study_inputs(study, resumed, tmp_path).evaluation.dtype is None
    with pytest.raises(StudyChangedError, match=r'evaluation\.dtype: was null, now "bfloat16"'):
        start("training.bf16=true", "evaluation.dtype=bfloat16")


def test_a_step_that_an_earlier_version_did_is_not_done_again(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    manifest, study = start(), load_study(tmp_path / "study.yaml")
    # Which declared no precision.
    manifest = manifest.model_copy(update={"config": study.config})
    inputs = make_study_inputs(study, manifest, tmp_path)
    files = paths(tmp_path).preparation("student")
    files.directory.mkdir(parents=True)
    spec = make_spec(study, inputs, suite_spec(study.selection), "student", files)
    outcome = Outcome(state="completed", started=0.0, finished=1.0)
    write_text_atomically(files.outcome, outcome.model_dump_json())
    recorded = spec.model_dump(mode="json")
    del recorded["origin"]["evaluation"]["dtype"], recorded["shapes"], recorded["own_teachers"]
    write_text_atomically(files.spec, json.dumps(recorded))
    assert is_done(spec, paths(tmp_path))
    recorded["origin"]["seed"] += 1
    write_text_atomically(files.spec, json.dumps(recorded))
    assert not is_done(spec, paths(tmp_path))


def test_until_the_first_trial_anything_may_change(start: Callable[..., StudyManifest]) -> None:
    first = start(trials=False)
    assert start(trials=False) == first
    changed = start("seed=2", trials=False)
    assert changed.config.seed == 2
    assert changed.identity != first.identity


def _ask(folder: Path, study: StudyManifest) -> list[dict[str, Any]]:
    """What the arm ``gkd`` asks for three times, as a process that begins the study would."""
    config = study.config
    search = ArmSearch(
        open_storage(paths(folder).optuna),
        config.study,
        "gkd",
        config.arms["gkd"],
        config.sampler,
        seed=config.seed,
        higher_is_better=True,
    )
    assert search.asked() == {}
    return [search.ask().params for _ in range(3)]


def test_what_was_asked_for_another_study_does_not_guide_this_one(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    # Trials were asked for, and the process was killed before it wrote their specs.
    first = _ask(tmp_path, start(trials=False))
    narrowed = start("arms.gkd.search.lmbda.low=0.5", trials=False)
    assert not paths(tmp_path).optuna.exists()
    found = _ask(tmp_path, narrowed)
    assert all(0.5 <= params["lmbda"] <= 1.0 for params in found)
    assert found != first
    # The very trials that it would have had from nothing.
    shutil.rmtree(paths(tmp_path).directory)
    assert _ask(tmp_path, start("arms.gkd.search.lmbda.low=0.5", trials=False)) == found


def test_an_unchanged_study_keeps_what_was_asked_for(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    _ask(tmp_path, start(trials=False))
    before = paths(tmp_path).optuna.read_bytes()
    start("trials=9", "compute.workers=3", trials=False)
    assert paths(tmp_path).optuna.read_bytes() == before


@pytest.mark.parametrize(
    "overrides",
    [
        ["trials=9"],
        ["trials=9", "arms.sft.trials="],
        ["arms.sft.trials=8"],
        ["arms.gkd.trials=8"],
        ["compute.workers=5"],
        ["compute={device: cpu, threads_per_worker: 1}"],
        ["tracking.uri=http://127.0.0.1:5000", "tracking.experiment=other"],
        ["evaluation.samples=0"],
        ["training.checkpoint_every=50", "arms.gkd.settings.checkpoint_every=5"],
        ["arms.seqkd={}"],
        ["arms.mine={method: gkd, settings: {lmbda: 0.0}, trials: 1}"],
    ],
)
def test_what_may_change_is_recorded_and_keeps_the_first_provenance(
    start: Callable[..., StudyManifest], tmp_path: Path, overrides: list[str]
) -> None:
    first = start()
    second = start(*overrides, command="again")
    assert second.config != first.config
    assert second.config == with_scoring_dtype(
        load_study(tmp_path / "study.yaml", overrides).config
    )
    undone = {"config": first.config, "written": first.written}
    assert second.model_copy(update=undone) == first
    assert read_manifest(paths(tmp_path)) == second
    # From here on, the larger study is the one to compare with.
    assert start(*overrides) == second


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["trials=3"], ["trials: was 4, now 3"]),
        (["arms.sft.trials=2"], ["arms.sft.trials: was 3, now 2"]),
        (["arms.gkd.trials=3"], ["arms.gkd.trials: was null, now 3"]),
        (["seed=2"], ["seed: was 1, now 2"]),
        (["arms.gkd.search.lmbda.low=0.5"], ["arms.gkd.search.lmbda.low: was 0.0, now 0.5"]),
        (
            ["arms.gkd.search.beta={type: categorical, choices: [0.5]}"],
            ['arms.gkd.search.beta: was absent, now {"type": "categorical", "choices": [0.5]}'],
        ),
        (["arms.gkd.settings.beta=0.1"], ["arms.gkd.settings.beta: was absent, now 0.1"]),
        (["arms={gkd: {search: {lmbda: {type: float, low: 0.0, high: 1.0}}}}"], ["arms.sft: was"]),
        (["arms.sft.method=seqkd"], ['arms.sft.method: was "sft", now "seqkd"']),
        (["training.max_steps=7"], ["training.max_steps: was 500, now 7"]),
        (["teacher.revision=main"], ['teacher.revision: was null, now "main"']),
        (["student.keep_layers=[2, 0]"], ["student.keep_layers: was null, now [0, 2]"]),
        (["sampler=random"], ['sampler.type: was "tpe", now "random"']),
        (["evaluation.test="], ['evaluation.test: was "test.yaml", now null']),
        (["evaluation.selection=test.yaml"], ["evaluation.selection", "suite selection"]),
        (["seed=2", "trials=3"], ["seed: was 1", "trials: was 4"]),
        # A step takes more sequences then.
        (["compute.devices_per_trial=2"], ["compute.devices_per_trial: was 1, now 2"]),
    ],
)
def test_what_would_not_compare_is_refused_with_every_difference(
    start: Callable[..., StudyManifest], tmp_path: Path, overrides: list[str], shown: list[str]
) -> None:
    first = start()
    with pytest.raises(StudyChangedError) as caught:
        start(*overrides)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert str(tmp_path / "study.yaml") in message
    listed = [line for line in message.splitlines() if line.startswith("  ")]
    assert len(listed) == len(shown)
    for text in shown:
        assert any(text in line for line in listed)
    assert read_manifest(paths(tmp_path)) == first


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("selection.yaml", "suite: selection\ntasks: [{task: mine, limit: 5}]\n", "selection"),
        ("test.yaml", "suite: test\ntasks: [{task: mine, weight: 2.0}]\n", "test"),
        ("tasks/mine.yaml", TASK + "num_fewshot: 2\n", "selection"),
        ("tasks/helpers.py", "def f(): return 1\n", "selection"),
        ("tasks/deep/new.yaml", "task: other\n", "test"),
        ("rows.jsonl", ROWS * 2, "data rows.jsonl"),
    ],
)
def test_a_file_whose_content_changed_is_named(
    start: Callable[..., StudyManifest], tmp_path: Path, name: str, content: str, shown: str
) -> None:
    start()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(StudyChangedError, match=f"{shown}: its content changed"):
        start()


def test_a_file_that_was_only_touched_or_written_again_is_the_same(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    first = start()
    (tmp_path / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    (tmp_path / "selection.yaml").write_text(
        "# a comment\nsuite: selection\ntasks:\n  - task: mine\n", encoding="utf-8"
    )
    cached = tmp_path / "tasks" / "__pycache__"
    cached.mkdir()
    (cached / "helpers.pyc").write_bytes(b"x")
    assert start() == first


def test_include_yaml_control(start: Callable[..., StudyManifest], tmp_path: Path) -> None:
    """A template that changed refuses the study; so does whatever else the loader reads."""
    (tmp_path / "tasks" / "_common.yaml").write_text("doc_to_text: '{{q}}'\n")
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK + "include: _common.yaml\n")
    start()
    (tmp_path / "tasks" / "_common.yaml").write_text("doc_to_text: '{{q}}:'\n")
    with pytest.raises(StudyChangedError, match="suite selection: its content changed"):
        start()


def test_another_checkpoint_in_a_local_folder_is_named(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    start(f"teacher.model={model}")
    start(f"teacher.model={model}")
    (model / "config.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(StudyChangedError, match=f"teacher {model}: its content changed"):
        start(f"teacher.model={model}")


def test_other_libraries_than_at_the_start_are_told(start: Callable[..., StudyManifest]) -> None:
    manifest = start()
    assert version_changes(manifest) == []
    versions = {**manifest.provenance.versions, "trl": "0.1"}
    older = manifest.provenance.model_copy(update={"versions": versions})
    [told] = version_changes(manifest.model_copy(update={"provenance": older}))
    assert told.startswith("trl was 0.1 when this study began and is ")


def test_the_storage_may_not_change_but_its_password_may(
    start: Callable[..., StudyManifest], tmp_path: Path
) -> None:
    uri = "tracking.uri=postgresql://me:hunter2@db/mlflow"
    first = start("storage=postgresql://me:hunter2@db/optuna", uri, command="--set " + uri)
    recorded = paths(tmp_path).manifest.read_text()
    assert "hunter2" not in recorded and "postgresql://me:***@db/optuna" in recorded
    for same in ("postgresql://me@db/optuna", "postgresql+psycopg://me:other@db/optuna"):
        assert start(f"storage={same}").identity == first.identity
    with pytest.raises(StudyChangedError) as caught:
        start("storage=postgresql://me:hunter2@other/optuna")
    assert 'storage: was "postgresql://me@db/optuna", now "postgresql://me@other/optuna"' in str(
        caught.value
    )
    with pytest.raises(StudyChangedError, match='storage: was "postgresql://me@db/optuna", now nu'):
        start()


def test_without_trials_another_storage_begins_another_study(
    start: Callable[..., StudyManifest],
) -> None:
    first = start(trials=False)
    second = start("storage=postgresql://me@db/optuna", trials=False)
    assert second.identity != first.identity
    assert start("storage=postgresql://me@db/optuna", trials=False) == second
    changed = start("storage=postgresql://me@db/optuna", "seed=2", trials=False)
    assert changed.identity != second.identity


def test_a_study_resumes_with_a_server_elsewhere_but_not_with_one_that_answers_otherwise(
    start: Callable[..., StudyManifest],
) -> None:
    answers, served = "arms={seqkd: {}}", "teacher.server.start=vllm"
    first = start(answers, served)
    moved = start(answers, served, "teacher.server.gpus=0", "teacher.server.python=/x")
    assert moved.identity == first.identity
    with pytest.raises(StudyChangedError, match=r"teacher\.server\.max_length: was null, now 512"):
        start(answers, served, "teacher.server.max_length=512")
    with pytest.raises(StudyChangedError, match=r"teacher\.server: was .*, now null"):
        start(answers)
