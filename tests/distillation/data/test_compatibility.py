"""Teacher and student as a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.distillation.data.compatibility import check_pair, template_note
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.distillation.teacher import outputs
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.errors import BadInputError
from sweeper.records import Resources
from tests.support.tiny_models import CHATML, make_tiny
from tests.support.training_jobs import make_study_inputs, train

TOKENS = 259
"""What the tokenizer of the tiny Qwen has."""


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The same model with more and with fewer rows of padding: 264 and 272 for 259 tokens."""
    root = tmp_path_factory.mktemp("models")
    return {n: make_tiny(root / str(n), vocab_rows=n, spread=4.0, layers=2) for n in (264, 272)}


def inputs(folder: Path, teacher: str, student: str, **of_student: Any) -> Any:
    return make_study_inputs(
        folder,
        teacher=ModelConfig(model=teacher),
        student=StudentConfig(model=student, **of_student),
    )


@pytest.mark.parametrize(("theirs", "ours"), [(272, 264), (264, 272)])
def test_padding_that_one_has_more_of_is_left_out(
    theirs: int, ours: int, padded: dict[int, str], tmp_path: Path
) -> None:
    study = unpack_models(inputs(tmp_path, padded[theirs], padded[ours]))
    read_training_data(study)
    models = {n: load_model(m, "cpu") for n, m in ((theirs, study.teacher), (ours, study.student))}
    assert {model.config.vocab_size for model in models.values()} == {264}
    whole = load_model(ModelConfig(model=padded[272]), "cpu")
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(models[272](tokens).logits, whole(tokens).logits[..., :264])

    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    settings = {"max_steps": 2, "max_length": 200, "max_new_tokens": 4}
    trained, _, points = train(study, resources, "gkd", lmbda=0.5, **settings)
    assert trained.get_output_embeddings().weight.shape[0] == 264
    assert all(point["loss"] < 50 for point in points)
    teacher = SharedTeacher(study, study.teacher, resources)
    answers = outputs.get_or_compute(read_training_data(study), teacher)
    assert max(max(answer) for answer in answers) < 264


def test_a_pair_of_the_same_size_stays_as_it_is(padded: dict[int, str], tmp_path: Path) -> None:
    study = inputs(tmp_path, padded[272], padded[272])
    assert unpack_models(study) == study


def test_ids_that_tokens_have_are_not_padding(padded: dict[int, str], tmp_path: Path) -> None:
    study = inputs(tmp_path, padded[272], padded[272], vocab_size=TOKENS - 1)
    with pytest.raises(BadInputError, match=r"258 token ids in common.*ids up to 258"):
        read_training_data(unpack_models(study))


def test_more_ids_than_there_are_rows(padded: dict[int, str], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="expected at most 264, the rows of") as caught:
        unpack_models(inputs(tmp_path, padded[272], padded[264], vocab_size=300))
    assert caught.value.key == ("student", "vocab_size")


def test_vocabularies_that_differ_are_refused_with_how_and_how_much(tmp_path: Path) -> None:
    qwen, gemma = (make_tiny(tmp_path / name, name) for name in ("qwen2", "gemma"))
    with pytest.raises(BadInputError, match=r"differ in \d+ of \d+ tokens") as caught:
        read_training_data(unpack_models(inputs(tmp_path, gemma, qwen)))
    assert caught.value.key == ("teacher", "model")
    ours = load_tokenizer(ModelConfig(model=qwen))
    theirs = load_tokenizer(ModelConfig(model=qwen))
    theirs.add_tokens(["<tool>"], special_tokens=True)
    with pytest.raises(BadInputError) as caught:
        check_pair(theirs, ours, ("T", "S"))
    assert "differ in 1 of 260 tokens, for example in '<tool>' (teacher 259, student without" in (
        str(caught.value)
    )


def test_templates_that_differ_are_noted(tmp_path: Path) -> None:
    other = CHATML.replace("<|im_start|>{{", "{% if loop.first %}Hi{% endif %}<|im_start|>{{", 1)
    paths = {
        name: make_tiny(tmp_path / name, template=template)
        for name, template in (("own", "own"), ("other", other), ("plain", None))
    }
    tokenizers = {name: load_tokenizer(ModelConfig(model=path)) for name, path in paths.items()}

    def note(teacher: str, student: str, system: str | None = None) -> str | None:
        models = tokenizers[teacher], tokenizers[student]
        return template_note(*models, (teacher, student), system)

    assert note("own", "own") is note("own", "own", "Be brief.") is None
    assert note("plain", "plain") is None
    told = note("other", "own")
    assert told and "differ ('Hi<|im_start|>" in told and "both read the student's" in told
    told = note("own", "plain")
    assert told and "without a chat template" in told


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_encoder_decoder_is_refused_by_its_configuration(
    role: str, padded: dict[int, str], tmp_path: Path
) -> None:
    from transformers import BartConfig

    BartConfig(vocab_size=8, d_model=8).save_pretrained(tmp_path)
    models = {"teacher": padded[264], "student": padded[264], role: str(tmp_path)}
    with pytest.raises(BadInputError, match=r"decoder-only model, found .*\(bart\)") as caught:
        unpack_models(inputs(tmp_path, **models))
    assert caught.value.key == (role, "model")


def test_attention_that_is_not_installed_is_told(padded: dict[int, str], tmp_path: Path) -> None:
    kwargs = {"init_kwargs": {"attn_implementation": "flash_attention_2"}}
    with pytest.raises(BadInputError, match="pip install flash-attn") as caught:
        unpack_models(inputs(tmp_path, padded[264], padded[264], **kwargs))
    assert caught.value.key == ("student", "init_kwargs", "attn_implementation")


def test_where_a_model_goes_and_how_it_attends_can_be_said(padded: dict[int, str]) -> None:
    options = {"device_map": "auto", "attn_implementation": "eager"}
    model = load_model(ModelConfig(model=padded[264], init_kwargs=options), "cpu")
    assert model.config._attn_implementation == "eager"
    assert next(model.parameters()).device.type == "cpu"
    shape = ModelConfig(model=padded[264], init_kwargs=options, random_init=True)
    assert load_model(shape, "cpu").config._attn_implementation == "eager"
