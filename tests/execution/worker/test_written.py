"""An exported student, loaded from its folder: it is the trained one, or it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sweeper.config.base import ScoringDtype
from sweeper.config.evaluation import EvaluationConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.models.saving import save_student
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import scored
from sweeper.execution.worker.written import check_same, note_answers, score_written
from sweeper.foundation.errors import BadInputError
from sweeper.records import KeptStudent, PreparationSpec, Resources, Scores, SuiteSpec
from sweeper.records.layout import JobPaths
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import ROOT
from tests.support.training_jobs import make_study_inputs, move

LORA = LoraConfig(r=4, alpha=8.0)
HEAD = LoraConfig(r=4, alpha=8.0, modules_to_save=("lm_head",))


def suite() -> SuiteSpec:
    """A suite whose score shows any difference: nats per byte."""
    task = SuiteTask(task="texts", documents=(0, 3), metric="byte_perplexity")
    directory = str(ROOT / "eval_suites" / "smollm2" / "tasks")
    config = SuiteConfig(suite="s", tasks=(task,))
    return SuiteSpec(config=config, task_directories=(directory,), content_hash="h")


class Exported:
    """A student that was trained, scored and saved as an export does it."""

    def __init__(
        self,
        folder: Path,
        *,
        merged: bool = False,
        scored_in: ScoringDtype = "float32",
        kind: str = "qwen2",
        **student: Any,
    ) -> None:
        self.base = Path(make_tiny(folder / "base", kind, width=32, spread=2.0))
        config = StudentConfig(model=str(self.base), **student)
        inputs = make_study_inputs(
            folder,
            teacher=ModelConfig(model=str(self.base)),
            student=config,
            evaluation=EvaluationConfig(selection="s.yaml", dtype=scored_in),
        )
        self.directory = folder / "student"
        keep = KeptStudent(
            directory=str(self.directory),
            merged=merged,
            base=str(self.base),
            reference=str(JobPaths(folder).reference),
        )
        self.spec = PreparationSpec(
            step="written",
            origin=inputs,
            needs_teacher_outputs=False,
            suite=suite(),
            test_suite=None,
            written=keep,
            place=Resources(directory=str(folder), device="cpu", threads=1),
        )
        self.progress = ProgressWriter(JobPaths(folder), silent=True)
        data = read_training_data(inputs)
        model: Any = load_model(config.before_training(), "cpu")
        if config.lora is not None:
            model = add_adapter(model, config.lora, {}, seed=1)
        move(model, 0.05)
        self.trained = scored(self.spec, model, data, self.progress)
        note_answers(self.spec, keep, model, data)
        save_student(model, data.tokenizer, keep, None, scored_in)

    def load(self) -> Scores:
        """Do what the job does that scores the saved student."""
        scores: Scores = score_written(self.spec, self.progress)["scores"]
        return scores


@pytest.mark.parametrize(
    ("dtype", "changes", "rounds"),
    [
        ("float32", {}, 0.0),
        ("float32", {"keep_layers": (1,)}, 0.0),
        ("float32", {"kind": "gpt2"}, 0.0),
        ("float32", {"lora": LORA}, 0.0),
        ("float32", {"lora": LORA, "merged": True}, 1e-5),
        ("float32", {"init_kwargs": {"attn_implementation": "eager"}}, 0.0),
        ("float32", {"init_kwargs": {"rms_norm_eps": 0.5}, "lora": LORA, "merged": True}, 1e-5),
        ("bfloat16", {}, 0.0),
        ("bfloat16", {"kind": "llama3", "dtype": "bfloat16", "lora": HEAD}, 0.0),
        ("bfloat16", {"kind": "llama3", "dtype": "bfloat16", "lora": HEAD, "merged": True}, 2e-2),
        ("float32", {"kind": "llama3", "dtype": "bfloat16", "lora": HEAD, "merged": True}, 1e-5),
        ("bfloat16", {"lora": LORA}, 0.0),
        ("bfloat16", {"lora": LORA, "merged": True}, 2e-2),
    ],
)
def test_the_saved_student_has_the_score_of_the_trained_one(
    dtype: ScoringDtype, changes: dict[str, Any], rounds: float, tmp_path: Path
) -> None:
    exported = Exported(tmp_path, scored_in=dtype, **changes)
    found = exported.load()
    assert found.dtype == dtype
    assert found.score == pytest.approx(exported.trained.score, rel=rounds, abs=0.0)


def lose_the_tie(folder: Path) -> None:
    """Give the head weights of its own, which the configuration then says to leave alone."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    change(folder / "config.json", tie_word_embeddings=False)


def move_a_weight(folder: Path) -> None:
    name = "adapter_model" if (folder / "adapter_config.json").exists() else "model"
    tensors = load_file(folder / f"{name}.safetensors")
    longest = max(tensors, key=lambda key: tensors[key].numel())
    tensors[longest] *= 1.1
    save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})


def forget_the_scale(folder: Path) -> None:
    change(folder / "adapter_config.json", lora_alpha=1)


def change(path: Path, **values: Any) -> None:
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**written, **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "changes", "remedy"),
    [
        (lose_the_tie, {}, ""),
        (move_a_weight, {}, ""),
        (lose_the_tie, {"lora": LORA, "merged": True}, "; export it without --merged"),
        (move_a_weight, {"lora": LORA}, "use --merged"),
        (forget_the_scale, {"lora": LORA}, "use --merged"),
    ],
)
def test_another_model_is_refused(
    spoil: Callable[[Path], None], changes: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    exported = Exported(tmp_path, **changes)
    spoil(exported.directory)
    with pytest.raises(BadInputError, match="its next-token probabilities differ") as caught:
        exported.load()
    assert str(caught.value).endswith(remedy)


def test_an_adapter_whose_base_is_another_model_is_refused(tmp_path: Path) -> None:
    exported = Exported(tmp_path, lora=LORA)
    other = make_tiny(tmp_path / "other", width=32, spread=2.0, seed=5)
    shutil.copy(Path(other) / "model.safetensors", exported.base)
    with pytest.raises(BadInputError, match="is not the model that was below the adapter"):
        exported.load()


def test_weights_that_the_adapters_base_does_not_have_are_noticed(tmp_path: Path) -> None:
    """A student that was loaded in 16 bits is not the one that others load in 32."""
    exported = Exported(tmp_path, lora=LORA)
    model = AutoModelForCausalLM.from_pretrained(exported.base, dtype=torch.bfloat16)
    model.save_pretrained(exported.base)
    with pytest.raises(BadInputError, match=r"rounding explains 0\.1"):
        exported.load()


def test_what_the_adapters_base_is_only_told_in_the_study_is_noticed(tmp_path: Path) -> None:
    exported = Exported(tmp_path, lora=LORA, init_kwargs={"rms_norm_eps": 0.5})
    with pytest.raises(BadInputError, match="use --merged"):
        exported.load()


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json"])
def test_a_tokenizer_that_reads_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    exported = Exported(tmp_path)
    path = exported.directory / name
    text = path.read_text(encoding="utf-8")
    if name == "tokenizer.json":
        tokens = json.loads(text)
        vocabulary = tokens["model"]["vocab"]
        vocabulary["a"], vocabulary["t"] = vocabulary["t"], vocabulary["a"]
        text = json.dumps(tokens)
    else:
        text = text.replace("<|im_start|>", "")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match="reads the prompts otherwise than in training"):
        exported.load()


def test_a_vocabulary_must_have_the_students_tokens_and_no_probable_others() -> None:
    trained = [torch.randn(4, 10).log_softmax(-1)]
    logits = trained[0]
    padded = torch.cat([logits, torch.full((4, 3), -60.0)], -1).log_softmax(-1)
    check_same([padded], trained, "float32")
    likely = torch.cat([logits, torch.zeros(4, 3)], -1).log_softmax(-1)
    for wrong in (likely, logits[:, :8].log_softmax(-1), logits * float("nan")):
        with pytest.raises(BadInputError):
            check_same([wrong], trained, "bfloat16")
