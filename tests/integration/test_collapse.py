"""The known failures of on-policy training, each provoked: warned of, or stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.support.study_folders import outcomes, run, sweeper, trial_runs

pytestmark = pytest.mark.soak

COLLAPSE = {"min_rollouts": 4, "grace": 0.0}
TRAINING = {
    "max_steps": 9,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant_with_warmup",
    # The start, three windows, comes before the failure.
    "warmup_ratio": 0.78,
    "max_length": 96,
    "logging_steps": 1,
}
MEASURES = ("rollout_length", "truncated_share", "ended_share", "repetition", "student_entropy",
            "teacher_entropy", "teacher_logprob")  # fmt: skip


@pytest.fixture(scope="module")
def repeating_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher that answers with one token, again and again."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoTokenizer

    from sweeper.config.builtin import model_directory
    from sweeper.config.models import ModelConfig
    from sweeper.distillation.models.loading import load_model

    model = load_model(ModelConfig(model="builtin/adder-student"), "cpu")
    tokenizer = AutoTokenizer.from_pretrained(model_directory("adder-student"))
    [token] = tokenizer("1", add_special_tokens=False)["input_ids"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        ids = torch.randint(len(tokenizer), (8, 40), generator=draw)
        ids[:4, 10:] = token
        loss = cross_entropy(model(ids).logits.flatten(0, 1), torch.full((320,), token))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.01
    directory = tmp_path_factory.mktemp("models") / "repeating"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def arms(repeating_teacher: str) -> dict[str, Any]:
    def gkd(**settings: Any) -> dict[str, Any]:
        values = {"lmbda": 1.0, "beta": 0.0, "max_new_tokens": 96, **settings}
        return {"method": "gkd", "trials": 1, "settings": values}

    return {
        "healthy": gkd(learning_rate=1e-5),
        "endless": gkd(max_new_tokens=6),
        "repeating": gkd(**{"teacher.model": repeating_teacher}),
        "certain": gkd(beta=1.0, learning_rate=0.3),
    }


def test_each_failure_is_shown_and_ends_a_trial_only_where_it_may(
    write_study: Callable[..., Path], repeating_teacher: str
) -> None:
    made = {"arms": arms(repeating_teacher), "training": TRAINING}
    study = write_study(**made, collapse=COLLAPSE)
    directory = study.parent
    done = run(study)
    assert done.returncode == 0, done.stderr
    ended = outcomes(directory)
    assert {outcome["state"] for outcome in ended.values()} == {"completed"}
    signs = {
        name.partition("/")[0]: {sign["kind"]: sign for sign in outcome["collapse"]}
        for name, outcome in ended.items()
    }
    assert signs["healthy"] == {}
    assert set(signs["endless"]) == {"endless"}
    assert {"length", "repetition"} <= set(signs["repeating"])
    assert "entropy" in signs["certain"]
    for outcome in ended.values():
        assert all(outcome["rollouts"][n.removeprefix("rollout_")] is not None for n in MEASURES)

    # In the live view, MLflow, the terminal and the report: what happened, and what to change.
    for arm, found in signs.items():
        for sign in found.values():
            assert f"{arm} #0: at step {sign['step']} {sign['message']}" in done.stdout
    for tracked in trial_runs(directory):
        arm = tracked.data.tags["sweeper.arm"]
        assert all(f"train/{name}" in tracked.data.metrics for name in MEASURES)
        told = tracked.data.tags.get("sweeper.collapse", "")
        assert all(sign["message"] in told for sign in signs[arm].values())
        assert bool(told) == bool(signs[arm])
    folder = directory / "reports" / "tiny"
    assert (folder / "rollouts.png").stat().st_size > 10_000
    report = (folder / "report.md").read_text(encoding="utf-8")
    shown = " ".join(sweeper(directory, "report", study.name).stdout.split())
    titles = ("Length explosion", "Answers that do not end", "Collapse into repetition",
              "Entropy collapse")  # fmt: skip
    for title in titles:
        assert title in report and title in shown
    assert "a higher max_new_tokens" in report
    # A trial that collapsed is not warned of twice.
    assert "rollouts were cut at max_new_tokens" not in report
    recorded = json.loads(sweeper(directory, "report", study.name, "--json").stdout)
    assert {case["arm"] for case in recorded["rollouts"]["collapsed"]} == set(signs) - {"healthy"}

    # The same study that stops: with the message of the sign that came first, and its remedies.
    (directory / "runs").rename(directory / "warned")
    study = write_study(**made, collapse={**COLLAPSE, "action": "stop"})
    done = run(study)
    assert done.returncode == 0, done.stderr
    for name, outcome in outcomes(directory).items():
        arm = name.partition("/")[0]
        first = min(signs[arm].values(), key=lambda sign: sign["step"], default=None)
        if first is None:
            assert outcome["state"] == "completed"
            continue
        failure = outcome["failure"]
        assert (outcome["state"], failure["kind"]) == ("failed", "diverged")
        assert first["message"] in failure["message"]
        assert failure["remedies"] == first["remedies"]
        assert outcome["cost"]["steps"] == first["step"] < TRAINING["max_steps"]
        assert outcome["collapse"][0] == first
        storage = f"sqlite:///{directory / 'runs' / 'tiny' / 'study.db'}"
        [trial] = optuna.load_study(study_name=f"tiny/{arm}", storage=storage).trials
        assert trial.state.name == "PRUNED"
        assert f"{arm} #0: at step" not in done.stdout
