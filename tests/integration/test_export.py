"""From a data file to a study, and from its winner to a model that others load; for real."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from sweeper.config.builtin import dataset
from sweeper.config.oumi.reading import read_recipe
from tests.support.whole_studies import WholeStudy, leftovers, wait_beside

pytestmark = pytest.mark.slow

FAST = {
    "study": "tiny",
    "trials": 1,
    "training": "{max_steps: 4, per_device_train_batch_size: 4, learning_rate: 0.01}",
    "confirm.seeds": 1,
    "arms": "{gkd: {settings: {lmbda: 1.0, max_new_tokens: 8}}}",
}


def test_from_a_data_file_to_a_model(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in list(dataset("addition", "test"))[:40])
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    study = WholeStudy(tmp_path)
    options = [f"--set={key}={value}" for key, value in FAST.items()]

    def do(command: str, *more: str) -> str:
        done = study.run(*options, *more, command=command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    models = ["--teacher=builtin/adder-teacher", "--student=builtin/adder-student"]
    made = study.make("init", *models, "--data=rows.jsonl")
    assert made.returncode == 0, made.stderr
    study.check(study.run(*options))

    (tmp_path / "gkd.yaml").write_text(do("export", "--recipe"), encoding="utf-8")
    recipe = read_recipe(tmp_path / "gkd.yaml")
    assert recipe.settings["lmbda"] == 1.0 and recipe.values["training"]["max_steps"] == 4
    assert recipe.values["data"]["train"]["path"] == "study/train.jsonl"

    # Interrupted, it leaves nothing.
    process = study.start(*options, "--model=model", command="export")
    wait_beside(process, lambda: any(study.paths.directory.glob(".export.*/progress.jsonl")))
    process.send_signal(signal.SIGINT)
    stopped = study.end(process)
    assert stopped.returncode == 130 and "nothing was written" in stopped.stdout, stopped.stderr
    assert leftovers(tmp_path) == [] and not (tmp_path / "model").exists()

    # One that was killed left this.
    (study.paths.directory / f".export.{'0' * 32}").mkdir()
    for folder, library in (["--model=model"], "PEFT"), (["--model=merged", "--merged"], "transf"):
        told = do("export", *folder, "--cache-dir=cache")
        assert f"loaded from its folder by {library}" in told
        assert "exactly as recorded, on each of" in told
        assert leftovers(tmp_path) == []
    again = study.run(*options, "--model=model", command="export")
    assert again.returncode == 2 and "expected a new or an empty folder" in again.stderr
    _check_weights(tmp_path / "model", tmp_path / "merged")


def _check_weights(adapter: Path, merged: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert [path.suffix for path in adapter.glob("*model*")] == [".safetensors"]
    assert (adapter / "README.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: peft")
    tokenizer = AutoTokenizer.from_pretrained(merged)
    turns = [{"role": "user", "content": "1234+5678?"}]
    prompt = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
    answers = []
    for loader, folder in ((AutoPeftModelForCausalLM, adapter), (AutoModelForCausalLM, merged)):
        model = loader.from_pretrained(folder).eval()
        with torch.no_grad():
            answers.append(model(input_ids=prompt).logits)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)
    short = model.generate(prompt, max_new_tokens=60)[0, prompt.shape[1] :]
    assert tokenizer.eos_token_id in short.tolist()
