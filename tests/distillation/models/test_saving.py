"""What is saved of a student, loaded by plain transformers or PEFT, is the trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.preparation import WarmStartConfig
from sweeper.config.settings import TrainingConfig
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.adapters import add_adapter, check_adapter, merge_adapter
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.distillation.models.saving import load_saved, save_student
from sweeper.distillation.start import starting_student
from sweeper.foundation.errors import BadInputError
from sweeper.records import KeptStudent, Resources
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs, move

pytestmark = [
    # PEFT's, about the transposed layers of GPT-2, and about names that no module has.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:peft"),
]
TOKENS = torch.arange(7, 39).view(2, 16)
TARGETS, SAVED = "target_modules", "modules_to_save"
Lora = dict[str, Any]
UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen2-untied": ("qwen2", UNTIED),
    "llama": ("llama3", {}),
    "llama-tied": ("llama3", TIED),
    # Their configurations do not say that they are tied: their class does.
    "gemma2": ("gemma2", {}),
    "gemma2-untied": ("gemma2", UNTIED),
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", UNTIED),
    "granite": ("granite", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "mixtral-tied": ("mixtral", TIED),
}
SAME: list[tuple[str, Lora]] = [
    ("qwen2", {}),
    ("qwen2", {"use_dora": True}),
    ("qwen2", {"use_rslora": True}),
    ("qwen2", {SAVED: ["norm"]}),
    ("qwen2-untied", {TARGETS: ["q_proj", "embed_tokens"]}),
    ("llama", {SAVED: ["lm_head"]}),
    ("llama", {SAVED: ["embed_tokens"]}),
    ("llama", {TARGETS: ["embed_tokens"], "use_dora": True}),
    ("llama-tied", {}),
    # Its embeddings are scaled as they are looked up.
    ("gemma2", {"use_dora": True}),
    ("gemma2-untied", {TARGETS: ["embed_tokens"]}),
    ("gemma2-untied", {SAVED: ["embed_tokens", "lm_head"]}),
    # Its linear layers are transposed.
    ("gpt2", {}),
    ("gpt2", {TARGETS: ["c_attn"], "use_dora": True}),
    ("gpt2-untied", {TARGETS: ["wte"]}),
    ("granite", {SAVED: ["embed_tokens"]}),
    # Experts are one tensor a layer.
    ("qwen3_moe", {}),
    ("mixtral-tied", {TARGETS: ["gate"]}),
]
REFUSED: list[tuple[str, str, Lora]] = [
    (kind, key, {key: names})
    for kind, embeddings in (
        ("qwen2", "embed_tokens"),
        ("llama-tied", "embed_tokens"),
        ("gemma2", "embed_tokens"),
        ("gpt2", "wte"),
        ("mixtral-tied", "embed_tokens"),
    )
    for key, names in (
        (TARGETS, [embeddings]),
        (TARGETS, ["lm_head"]),
        (TARGETS, [embeddings, "lm_head"]),
        (SAVED, [embeddings]),
        (SAVED, ["lm_head"]),
        (SAVED, [embeddings, "lm_head"]),
    )
]


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("students")
    return {
        name: make_tiny(root / name, kind, width=32, spread=3.0, **changes)
        for name, (kind, changes) in KINDS.items()
    }


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model.eval()(TOKENS).logits.float()
    return found


def as_if_trained(student: StudentConfig) -> Any:
    """The student, whatever is trained of it moved."""
    model: Any = load_model(student.before_training(), "cpu", seed=1)
    if student.lora is not None:
        model = add_adapter(model, student.lora, {}, seed=1)
    return move(model, 0.2)


def adapted(path: str, **lora: Any) -> StudentConfig:
    # Names of heads are refused in the study file; here the model itself decides.
    config = LoraConfig(r=4, alpha=8.0).model_copy(
        update={key: tuple(v) if isinstance(v, list) else v for key, v in lora.items()}
    )
    return StudentConfig(model=path).model_copy(update={"lora": config})


def saved(student: StudentConfig, model: Any, folder: Path, *, merged: bool, **kept: Any) -> Any:
    """What is loaded of a student after it was saved."""
    keep = KeptStudent(
        directory=str(folder), merged=merged, base=student.model, reference=str(folder / "none")
    )
    dtype = kept.pop("dtype", "float32")
    save_student(model, load_tokenizer(student), keep, None, dtype)
    return load_saved(keep, student, "cpu", dtype)[0]


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("kind", "lora"), SAME)
def test_the_saved_student_has_the_logits_of_the_trained_one(
    students: dict[str, str], kind: str, lora: Lora, tmp_path: Path
) -> None:
    student = adapted(students[kind], **lora)
    check_adapter(student)
    model = as_if_trained(student)
    wanted = logits(model)
    assert difference(logits(load_model(student, "cpu")), wanted) > 1e-3, "the adapter does much"
    assert torch.equal(logits(saved(student, model, tmp_path / "adapter", merged=False)), wanted)
    # By transformers alone.
    saved(student, model, tmp_path / "merged", merged=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert difference(logits(loaded), wanted) < 1e-4
    written = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert written.get("tie_word_embeddings", tied) == tied


@pytest.mark.parametrize(("kind", "key", "lora"), REFUSED)
def test_an_adapter_that_would_untie_the_embeddings_is_refused_before_training(
    students: dict[str, str], kind: str, key: str, lora: Lora
) -> None:
    with pytest.raises(BadInputError, match=r"expected (neither embeddings nor|no) head") as caught:
        check_adapter(adapted(students[kind], **lora))
    assert caught.value.key == ("student", "lora", key)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral-tied"])
def test_a_module_around_adapted_ones_is_not_saved_whole(
    students: dict[str, str], kind: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        check_adapter(adapted(students[kind], **{SAVED: ["model"]}))
    assert caught.value.key == ("student", "lora", SAVED)


@pytest.mark.parametrize("key", [TARGETS, SAVED])
@pytest.mark.parametrize("listed", [True, False], ids=["by name", "by rule"])
def test_modules_that_share_their_weights_are_refused(
    students: dict[str, str], key: str, listed: bool
) -> None:
    """However they are named: PEFT also takes modules whose names only end alike."""
    model = load_model(StudentConfig(model=students["llama"]), "cpu")
    first, second = (layer.mlp.up_proj for layer in model.get_decoder().layers)
    second.weight = first.weight
    lora: Lora = {TARGETS: ["q_proj"]} if key == SAVED else {}
    if listed:
        lora[key] = ["up_proj"]
    elif key == SAVED:
        layer = model.get_decoder().layers[0].mlp
        layer.proj = nn.Identity()
        layer.proj.weight = nn.Parameter(torch.ones(1))
        lora[key] = ["proj"]
        lora[TARGETS] = ["layers.1.self_attn.o"]
        model.get_decoder().layers[1].self_attn.o = nn.Linear(2, 2)
    config = adapted(students["llama"], **lora).lora
    assert config is not None
    with pytest.raises(BadInputError, match="expected modules with weights of their own") as caught:
        add_adapter(model, config, {}, seed=1)
    assert caught.value.key == ("student", "lora", key)


@pytest.mark.parametrize(
    "changes",
    [{}, {"keep_layers": 1}, {"random_init": True}, {"vocab_size": 259}, {"keep_layers": (0,)}],
    ids=str,
)
@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)], ids=["whole", "LoRA"])
def test_students_made_of_others_are_saved_as_they_are(
    students: dict[str, str], changes: dict[str, Any], lora: LoraConfig | None, tmp_path: Path
) -> None:
    if changes.get("keep_layers") == 1:
        changes = {"keep_layers": (1,)}
    student = StudentConfig(model=students["qwen2"], lora=lora, **changes)
    model = as_if_trained(student)
    wanted = logits(model)
    assert difference(logits(saved(student, model, tmp_path / "s", merged=True)), wanted) < 1e-4


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_an_adapter_on_rounded_weights_is_loaded_on_weights_rounded_alike(
    students: dict[str, str], quantization: str, tmp_path: Path
) -> None:
    student = adapted(students["llama"]).model_copy(update={"quantization": quantization})
    model = as_if_trained(student)
    found = logits(saved(student, model, tmp_path / "adapter", merged=False))
    assert difference(found, logits(model)) < 1e-3


def test_the_settings_of_generation_are_plain(students: dict[str, str], tmp_path: Path) -> None:
    student = StudentConfig(model=students["qwen2"])
    model = as_if_trained(student)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.3, repetition_penalty=1.3, eos_token_id=5
    )
    loaded = saved(student, model, tmp_path / "student", merged=False)
    written = json.loads((tmp_path / "student/generation_config.json").read_text(encoding="utf-8"))
    assert set(written) <= {
        "_from_model_config", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"
    }  # fmt: skip
    assert 5 in loaded.generation_config.eos_token_id
    assert loaded.config.use_cache


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2", {}),
        ("qwen2", {"lora": LoraConfig(r=4)}),
        ("gemma2", {"lora": LoraConfig(r=4, use_dora=True)}),
        ("gemma2-untied", {"lora": LoraConfig(r=4, target_modules=("q_proj", "embed_tokens"))}),
        ("gpt2", {"lora": LoraConfig(r=4, use_rslora=True)}),
        ("llama", {"lora": LoraConfig(r=4, modules_to_save=("lm_head",)), "keep_layers": (1,)}),
        ("llama-tied", {"keep_layers": (0,)}),
    ],
)
def test_the_start_after_a_warm_start_has_the_logits_that_the_warm_start_ended_with(
    students: dict[str, str],
    kind: str,
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the publisher's settings of generation contradict each other."""
    settings = {"do_sample": False, "temperature": 0.7, "eos_token_id": [0, 2]}
    student = StudentConfig(model=students[kind], **changes)
    for name in Path(student.model).iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name.name).write_bytes(name.read_bytes())
    (tmp_path / "model/generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    student = student.model_copy(update={"model": str(tmp_path / "model")})
    inputs = make_study_inputs(
        tmp_path,
        teacher=ModelConfig(model=student.model),
        student=student,
        warm_start=WarmStartConfig(method="sft", max_steps=2, learning_rate=1e-2),
        training=TrainingConfig(per_device_train_batch_size=2, max_length=96),
    )
    ended: list[Tensor] = []

    def seen(trained: Any, *rest: Any) -> Any:
        ended.append(logits(trained))
        return merge_adapter(trained, *rest)

    monkeypatch.setattr("sweeper.distillation.start.merge_adapter", seen)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    start = starting_student(read_training_data(inputs), resources)
    [wanted] = ended
    assert difference(logits(start), wanted) < 1e-4
    assert set(start.generation_config.eos_token_id) >= {0, 2}
    assert difference(logits(load_model(student.before_training(), "cpu")), wanted) > 1e-4
