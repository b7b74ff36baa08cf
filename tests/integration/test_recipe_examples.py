"""The examples that guides give for GKD: converted, checked, run on stand-ins, and written back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.commands.init.draft_study import RECIPE_ARM
from sweeper.config.loading import load_study
from sweeper.config.oumi.reading import read_recipe
from sweeper.foundation.errors import ConfigError
from sweeper.records import TrialSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_outcome
from tests.support.oumi_recipes import BASIC, CONSERVATIVE, QUANTISED
from tests.support.tiny_models import make_tiny

STEPS = 4


@dataclass(frozen=True)
class Example:
    """One of them, as it stands there, and what stands in for its models."""

    text: str
    architecture: str
    missing: tuple[str, ...]
    """What it does not say."""


_DATA = (
    "data.train.path",
    "training.max_steps",
    "the tasks in study/selection.yaml and study/test.yaml",
)
EXAMPLES = {
    "basic": Example(BASIC, "qwen2", _DATA),
    "quantised": Example(QUANTISED, "llama3", ("student.model", *_DATA)),
    "conservative": Example(CONSERVATIVE, "gemma", ("student.model", *_DATA)),
}
OTHERS = ("quantised", "conservative")


def sweeper(*arguments: str) -> str:
    """Run a command in this process; what it says."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_example_does_not_say_is_asked_for_and_not_guessed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = EXAMPLES[name]
    Path("recipe.yaml").write_text(example.text, encoding="utf-8")
    told = sweeper("init", "--from-recipe", "recipe.yaml")
    asked = [line for line in told.splitlines() if line.startswith("Fill in: ")]
    assert len(asked) == len(example.missing)
    for line, key in zip(asked, example.missing, strict=True):
        assert line.startswith(f"Fill in: {key}")
    with pytest.raises(ConfigError) as caught:
        load_study(Path("study.yaml"))
    places = [problem.path for problem in caught.value.problems]
    keys = {key for key in example.missing if key.endswith((".model", ".path"))}
    assert set(places) == {*keys, "tasks.0.task"}
    assert all(problem.line is not None for problem in caught.value.problems)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are run: they share a tracking database, which takes time to make."""
    path = tmp_path_factory.mktemp("examples")
    rows = [{"prompt": f"{n}+1?", "completion": f"It is {n + 1}."} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "rows.jsonl").write_text(lines, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["basic", *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS)]
)
def test_an_example_is_checked_run_and_written_back_as_the_same_recipe(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    example = EXAMPLES[name]
    if name == "quantised":
        pytest.importorskip("bitsandbytes")
    recipe, study = Path(f"{name}-recipe.yaml"), f"{name}.yaml"
    recipe.write_text(example.text, encoding="utf-8")
    root = folder / "models" / name
    models = [
        f"--{role}={make_tiny(root / role, example.architecture, layers=layers)}"
        for role, layers in (("teacher", 2), ("student", 1))
    ]
    told = sweeper(
        "init", "--from-recipe", str(recipe), "--data", "rows.jsonl", *models, "-o", study
    )
    assert "Fill in" not in told

    written = YAML(typ="safe").load(Path(study))
    arms = json.dumps({RECIPE_ARM: written["arms"][RECIPE_ARM]})
    changes = [f"arms={arms}", f"training.max_steps={STEPS}", "confirm.seeds=0", "trials=1"]
    changes += ["training.per_device_train_batch_size=2"]
    options = [study, *(f"--set={change}" for change in changes)]
    sweeper("run", *options, "--cache-dir", "cache")
    # What the study's own data step saw is read again.
    told = sweeper("check", *options)
    assert "vocabulary" in told and "✗" not in told
    files = StudyPaths(Path("runs"), name).trial(RECIPE_ARM, 0)
    outcome = read_outcome(files)
    assert outcome is not None and outcome.state == "completed", outcome
    assert outcome.cost.steps == STEPS and outcome.scores is not None
    assert outcome.cost.generated_tokens > 0

    first = read_recipe(recipe)
    spec = TrialSpec.model_validate_json(files.spec.read_text(encoding="utf-8"))
    assert spec.settings.model_dump().items() >= first.settings.items()
    sweeper("export", *options, "--recipe", "--arm", RECIPE_ARM, "-o", f"{name}-winner.yaml")
    again = read_recipe(Path(f"{name}-winner.yaml"))
    assert again.settings.items() >= first.settings.items()
    _check_the_same(first.values, again.values, models)


def _check_the_same(first: dict[str, Any], again: dict[str, Any], models: list[str]) -> None:
    """That ``again`` says everything of models and training that ``first`` does."""
    for section in ("teacher", "student", "training"):
        said = dict(first.get(section, {}))
        if "model" in said:
            said["model"] = next(m.partition("=")[2] for m in models if section in m.split("=")[0])
        assert _holds(again[section], said), section


def _holds(whole: Any, part: Any) -> bool:
    """Whether ``whole`` has every value of ``part``, and perhaps more."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(name in whole and _holds(whole[name], value) for name, value in part.items())
    return bool(whole == part)
