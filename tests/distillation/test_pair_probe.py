"""The diagnosis of a pair against plain transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.distillation import pair_probe
from sweeper.distillation.data.training_data import TrainingData, read_training_data
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.pair_probe import PairProbe, probe_pair
from sweeper.distillation.sampling.rollouts import generate
from sweeper.foundation.errors import BadInputError
from sweeper.records import PairRequest, Resources, SampledAnswer
from sweeper.records.seeds import pair_seed
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs

pytestmark = pytest.mark.slow

LIMIT = 10
SEED = 1


def training_data(folder: Path, teacher: str, student: str, **changes: Any) -> TrainingData:
    rows = DataConfig(train=DatasetConfig(path="builtin/addition", limit=24))
    return read_training_data(
        make_study_inputs(
            folder,
            teacher=ModelConfig(model=teacher),
            student=StudentConfig(model=student, **changes),
            data=rows,
        )
    )


def probed(data: TrainingData, folder: Path, *others: str, limit: int = LIMIT) -> PairProbe:
    resources = Resources(directory=str(folder), device="cpu", threads=1)
    names = (data.inputs.teacher.model, *others)
    request = PairRequest(key="k", max_new_tokens=limit, rollout_limit=limit, teachers=names)
    return probe_pair(data, resources, request, lambda phase, done, total: None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    teacher = make_tiny(folder / "teacher", layers=2, width=32, seed=1, spread=8.0)
    return teacher, make_tiny(folder / "student", layers=2, width=16, seed=2, spread=8.0)


@pytest.fixture(scope="module")
def plain(models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return training_data(tmp_path_factory.mktemp("plain"), *models)


@pytest.fixture(scope="module")
def whole(plain: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> PairProbe:
    return probed(plain, tmp_path_factory.mktemp("whole"))


def by_hand(
    model: Any, other: Any, prompt: list[int], answer: tuple[int, ...]
) -> tuple[float, list[float], float, int]:
    """Log-probability, entropies by quarter, mass of the shared tokens, and their number."""
    tokens, start, count = torch.tensor([[*prompt, *answer]]), len(prompt) - 1, len(answer)
    with torch.no_grad():
        ours = model(tokens).logits[0, start : start + count].double().softmax(-1)
        theirs = other(tokens).logits[0, start : start + count].double().softmax(-1)
    log_probability, mass, shared = 0.0, 0.0, 0
    entropies = [0.0] * 4
    for i, token in enumerate(answer):
        log_probability += float(ours[i, token].log())
        entropies[i * 4 // count] -= float((ours[i] * ours[i].log()).sum())
        common = {*ours[i].topk(16).indices.tolist()} & {*theirs[i].topk(16).indices.tolist()}
        mass += sum(float(ours[i, token]) for token in common)
        shared += len(common)
    return log_probability, entropies, mass, shared


def test_it_is_what_plain_transformers_gives(
    models: tuple[str, str], plain: TrainingData, whole: PairProbe, tmp_path: Path
) -> None:
    data, found = plain, whole
    [pair] = found.diagnosis.pairs
    assert (found.diagnosis.top, len(pair.prompts)) == (16, pair_probe.PROMPTS)
    named = zip(("teacher", "student"), models, strict=True)
    loaded = {name: AutoModelForCausalLM.from_pretrained(path) for name, path in named}
    prompts = [data.tokenizer(text, add_special_tokens=False).input_ids for text, *_ in found.texts]
    assert len({tuple(prompt) for prompt in prompts}) == pair_probe.PROMPTS
    for name, model in loaded.items():
        answers = generate(
            model,
            prompts,
            temperature=1.0,
            max_new_tokens=LIMIT,
            end_ids=end_token_ids(model, data.tokenizer),
            pad_id=data.tokenizer.pad_token_id,
            seed=pair_seed(SEED, name if name == "student" else models[0]),
            batch_size=3,
        )
        for prompt, answer, row in zip(prompts, answers, pair.prompts, strict=True):
            seen: SampledAnswer = getattr(row, name)
            assert (seen.tokens, seen.ended) == (len(answer.tokens), answer.finished)
            assert sum(seen.quarters) == seen.tokens
            for reader, read in (("student", seen.student), ("teacher", seen.teacher)):
                other = loaded["teacher" if reader == "student" else "student"]
                expected = by_hand(loaded[reader], other, prompt, answer.tokens)
                assert read.log_probability == pytest.approx(expected[0], rel=1e-4)
                assert read.entropies == pytest.approx(expected[1], rel=1e-4)
                assert read.shared_mass == pytest.approx(expected[2], rel=1e-4)
                assert seen.shared_tokens * 16 == pytest.approx(expected[3])
    for prompt, row in zip(prompts, pair.prompts, strict=True):
        first = [int(m(torch.tensor([prompt])).logits[0, -1].argmax()) for m in loaded.values()]
        assert row.same_first_token == (first[0] == first[1])
    assert probed(data, tmp_path) == found, "it is reproducible"


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": LoraConfig(r=2, alpha=4)},
        {"keep_layers": [0]},
        {"lora": LoraConfig(r=2, alpha=4), "quantization": "int8"},
    ],
)
def test_every_kind_of_student_is_read(
    models: tuple[str, str], whole: PairProbe, tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    found = probed(training_data(tmp_path, *models, **changes), tmp_path).diagnosis.pairs[0]
    # A new adapter changes nothing; other weights do.
    assert (found == whole.diagnosis.pairs[0]) == (set(changes) == {"lora"})


def test_a_model_is_no_distance_from_itself(models: tuple[str, str], tmp_path: Path) -> None:
    [pair] = probed(training_data(tmp_path, models[1], models[1]), tmp_path).diagnosis.pairs
    for row in pair.prompts:
        assert row.same_first_token
        for answer in (row.student, row.teacher):
            assert answer.student == answer.teacher
            assert answer.shared_tokens == answer.tokens


def test_teachers_of_arms_are_compared_too(
    models: tuple[str, str], plain: TrainingData, whole: PairProbe, tmp_path: Path
) -> None:
    first, second = probed(plain, tmp_path, models[1]).diagnosis.pairs
    assert [first.teacher, second.teacher] == list(models)
    assert (first,) == whole.diagnosis.pairs
    assert all(row.student.student == row.student.teacher for row in second.prompts)


def test_prompts_leave_room_where_positions_end(tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "gpt2", "gpt2", max_position_embeddings=32)
    data = training_data(tmp_path, model, model)
    # A prompt of the addition data has ten characters.
    assert probed(data, tmp_path, limit=22).diagnosis.pairs[0].prompts
    with pytest.raises(BadInputError, match="leave room for 23 tokens in models of 32 positions"):
        probed(data, tmp_path, limit=23)


def test_its_own_end_token_is_no_mark(plain: TrainingData, tmp_path: Path) -> None:
    [pair] = probed(plain, tmp_path, limit=40).diagnosis.pairs
    ended = [row.student for row in pair.prompts if row.student.ended]
    assert ended and not any("<|im_end|>" in answer.template_marks for answer in ended)
