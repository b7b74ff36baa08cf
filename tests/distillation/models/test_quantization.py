"""Models in 8 and 4 bits, by the real library on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.preparation import WarmStartConfig
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.adapters import add_adapter, check_adapter, merge_adapter
from sweeper.distillation.models.loading import identity, load_model
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.start import starting_student
from sweeper.foundation.errors import BadInputError
from sweeper.records import Resources
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs, train

bitsandbytes = pytest.importorskip("bitsandbytes")

KINDS = ("int8", "int4")
LAYERS = {"int8": bitsandbytes.nn.Linear8bitLt, "int4": bitsandbytes.nn.Linear4bit}
TOKENS = torch.arange(3, 35).view(2, 16)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny(tmp_path_factory.mktemp("models") / "large", layers=3, width=64, spread=4.0)


def load(path: str, kind: Any = None, **changes: Any) -> Any:
    return load_model(ModelConfig(model=path, quantization=kind, **changes), "cpu")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_are_rounded_and_the_head_is_not(kind: str, large: str) -> None:
    whole, rounded = load(large), load(large, kind)
    kinds = {type(m) for m in rounded.get_decoder().layers.modules() if hasattr(m, "in_features")}
    assert kinds == {LAYERS[kind]}
    assert type(rounded.get_output_embeddings()) is torch.nn.Linear
    assert rounded.get_memory_footprint() < 0.6 * whole.get_memory_footprint()
    error = (logits(rounded) - logits(whole)).norm() / logits(whole).norm()
    assert 0 < error < {"int8": 0.1, "int4": 0.6}[kind]
    # What is cached of a rounded teacher must not depend on who rounded it.
    assert torch.equal(logits(load(large, kind)), logits(rounded))


def test_what_is_cached_of_a_model_is_of_its_rounding(large: str) -> None:
    found = [identity(ModelConfig(model=large, quantization=kind)) for kind in (None, *KINDS)]
    assert all(found.count(one) == 1 for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rounded_model_reads_and_writes_as_any_other(kind: str, large: str) -> None:
    model = load(large, kind)
    heads = Heads.of(load(large), model)
    assert heads.teacher.head is model.get_output_embeddings()
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 5, "end_ids": [], "pad_id": 0}
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    together = generate(model, prompts, seed=1, batch_size=2, **options)
    tokens = list(prompts[1])
    for expected in together[1].tokens:
        with torch.no_grad():
            assert int(model(torch.tensor([tokens])).logits[0, -1].argmax()) == expected
        tokens.append(expected)


def test_a_student_of_some_layers_can_be_rounded(large: str) -> None:
    cut = load(large, "int4", keep_layers=2)
    assert cut.config.num_hidden_layers == 2
    assert logits(cut).isfinite().all()


def test_weights_that_are_stored_rounded_are_not_rounded_again(large: str, tmp_path: Path) -> None:
    load(large, "int8").save_pretrained(tmp_path)
    stored = ModelConfig(model=str(tmp_path))
    assert torch.allclose(logits(load_model(stored, "cpu")), logits(load(large, "int8")))
    with pytest.raises(BadInputError, match=r"stored quantized already \(bitsandbytes\)"):
        load(str(tmp_path), "int4")


def inputs(large: str, tmp_path: Path, **changes: Any) -> Any:
    models = {
        "teacher": ModelConfig(model=large, quantization="int8"),
        "student": StudentConfig(
            model=large, quantization="int4", keep_layers=2, lora=LoraConfig(r=4)
        ),
    }
    return unpack_models(make_study_inputs(tmp_path, **{**models, **changes}))


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"bf16": True}])
def test_an_adapter_on_a_rounded_student_learns_from_a_rounded_teacher(
    large: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    settings = {"learning_rate": 1e-2, "lmbda": 0.5, "max_new_tokens": 4, "max_steps": 4, **changes}
    trained, meter, points = train(inputs(large, tmp_path), resources, "gkd", **settings)
    assert meter.totals["generated_tokens"] > 0
    assert all(torch.isfinite(torch.tensor(point["loss"])) for point in points)
    names = {n: p for n, p in trained.named_parameters() if p.requires_grad}
    assert names
    assert all("lora" in name for name in names)
    # Gradients reach every layer, after rollouts too.
    assert all(p.abs().max() > 0 for name, p in names.items() if "lora_B" in name)
    before = load(large, "int4", keep_layers=2)
    rounded = dict(before.named_parameters())
    for name, weights in trained.get_base_model().named_parameters():
        if name.endswith("base_layer.weight"):
            assert torch.equal(
                weights.data.view(-1), rounded[name.replace("base_layer.", "")].data.view(-1)
            )


def test_a_rounded_students_warm_start_is_stored_whole(large: str, tmp_path: Path) -> None:
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    warm = WarmStartConfig(method="sft", max_steps=2, learning_rate=1e-2)
    study = inputs(large, tmp_path, warm_start=warm)
    start = starting_student(read_training_data(study), resources)
    assert {type(m) for m in start.get_decoder().layers.modules() if hasattr(m, "in_features")} == {
        LAYERS["int4"]
    }
    [stored] = (tmp_path / "cache" / "warm_starts").glob("*/model.safetensors")
    whole = load_model(ModelConfig(model=str(stored.parent)), "cpu")
    assert not getattr(whole, "is_quantized", False)
    assert not torch.equal(logits(whole), logits(load(large, keep_layers=2)))


def test_an_adapter_is_merged_into_the_weights_as_stored(large: str) -> None:
    student = ModelConfig(model=large, quantization="int4")
    model = add_adapter(load_model(student, "cpu"), LoraConfig(r=2), {}, seed=1)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    merged = merge_adapter(model, student, "cpu", 0)
    again = add_adapter(load(large), LoraConfig(r=2), {}, seed=1)
    with torch.no_grad():
        for name, weights in again.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    wanted = logits(again.eval())
    assert (logits(merged) - wanted).norm() / wanted.norm() < 1e-4


def test_a_student_that_is_stored_rounded_needs_an_adapter(large: str, tmp_path: Path) -> None:
    load(large, "int8").save_pretrained(tmp_path / "stored")
    load_tokenizer_files(large, tmp_path / "stored")
    study = inputs(large, tmp_path, student=StudentConfig(model=str(tmp_path / "stored")))
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    with pytest.raises(BadInputError, match="an adapter to train") as caught:
        train(study, resources, "sft")
    assert caught.value.key == ("student", "lora")


def test_a_student_that_is_stored_rounded_has_no_warm_start_to_merge(
    large: str, tmp_path: Path
) -> None:
    load(large, "int8").save_pretrained(tmp_path / "stored")
    load_tokenizer_files(large, tmp_path / "stored")
    student = StudentConfig(model=str(tmp_path / "stored"), lora=LoraConfig(r=2))
    warm = WarmStartConfig(method="sft", max_steps=2)
    study = inputs(large, tmp_path, student=student, warm_start=warm)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    check_adapter(student)
    for refuse in (
        lambda: check_adapter(student, warm_start=True),
        lambda: starting_student(read_training_data(study), resources),
    ):
        with pytest.raises(BadInputError, match="not stored quantized") as caught:
            refuse()
        assert caught.value.key == ("warm_start",)


def load_tokenizer_files(source: str, target: Path) -> None:
    for path in Path(source).glob("*"):
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            (target / path.name).write_bytes(path.read_bytes())


BOMB = "from pathlib import Path\ndef get_kernel(*args, **kwargs): Path({mark!r}).touch()\n"


@pytest.mark.soak
@pytest.mark.parametrize(
    "import_it",
    [
        "from sweeper.distillation.models import late_bitsandbytes\n"
        "late_bitsandbytes.import_bitsandbytes()\n",
        "import sweeper.distillation.trainers.trl_distillation\n",
    ],
    ids=["a quantized model", "TRL's DistillationTrainer"],
)
def test_the_library_is_imported_late_and_without_code_from_a_hub(
    tmp_path: Path, import_it: str
) -> None:
    """It asks the package ``kernels`` for some, and GPUs, which the forkserver must not touch."""
    mark = tmp_path / "asked"
    (tmp_path / "kernels.py").write_text(BOMB.format(mark=str(mark)))
    code = (
        "import sys, sweeper.execution.worker.preload as preload\n"
        "assert preload.failure is None and 'peft' in sys.modules\n"
        "assert 'bitsandbytes' not in sys.modules\n"
        f"{import_it}"
        "import kernels, peft.import_utils\n"
        "assert 'bitsandbytes' in sys.modules and kernels.get_kernel\n"
        "assert peft.import_utils.is_bnb_4bit_available()\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
    assert not mark.exists()


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_missing_library_is_named_with_what_brings_it(
    role: str, large: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"teacher": ("student", StudentConfig), "student": ("teacher", ModelConfig)}[role]
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInputError, match=r"pip install 'sweeper\[quantization\]'") as caught:
        inputs(large, tmp_path, **{other[0]: other[1](model=large)})
    assert caught.value.key == (role, "quantization")
