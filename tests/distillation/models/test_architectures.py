"""The models that people distil: their tokenizers, templates, ends of turns and positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import check_template, render_prompt, tokenize
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.distillation.sampling.rollouts import generate
from sweeper.evaluation.scoring import score
from sweeper.foundation.errors import BadInputError
from sweeper.records import Resources, SuiteSpec
from tests.support.tiny_models import ARCHITECTURES, MISTRAL, make_tiny
from tests.support.tiny_studies import write_yaml
from tests.support.training_jobs import make_study_inputs, train

EXAMPLE = Example(({"role": "user", "content": "1+2?"},), "Grüße 3")
TURNS = {
    "qwen2": ("<|im_start|>user\n1+2?<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n1+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "gemma2": (
        "<bos><start_of_turn>user\n1+2?<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "mistral": ("<s>[INST] 1+2? [/INST]", "</s>"),
    "phi3": ("<|user|>\n1+2?<|end|>\n<|assistant|>\n", "<|end|>"),
    "gpt2": ("1+2?", "<|endoftext|>"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: make_tiny(root / name, name, layers=4, spread=4.0, seed=1) for name in ARCHITECTURES
    }


@pytest.mark.parametrize("architecture", TURNS)
def test_a_prompt_and_its_answer_up_to_the_end_of_the_turn(
    architecture: str, models: dict[str, str]
) -> None:
    config = ModelConfig(model=models[architecture])
    tokenizer, model = load_tokenizer(config), load_model(config, "cpu")
    prompt, end = TURNS[architecture]
    check_template(tokenizer, None)
    assert render_prompt(EXAMPLE, tokenizer) == prompt
    [sequence] = tokenize([EXAMPLE], tokenizer, 200).sequences
    assert tokenizer.decode(sequence.prompt) == prompt
    assert sequence.completion is not None
    assert tokenizer.decode(sequence.completion).strip() == f"Grüße 3{end}"
    # A text begins once, and what ends an answer in the data ends it in samples.
    assert sequence.prompt.count(tokenizer.bos_token_id) == (tokenizer.bos_token is not None)
    assert sequence.completion[-1] in end_token_ids(model, tokenizer)
    assert tokenizer.eos_token_id in end_token_ids(model, tokenizer)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_student_of_some_layers_learns_from_its_teacher(
    architecture: str, models: dict[str, str], tmp_path: Path
) -> None:
    path = models[architecture]
    inputs = make_study_inputs(
        tmp_path,
        teacher=ModelConfig(model=path),
        student=StudentConfig(model=path, keep_layers=2),
    )
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    settings = {"max_steps": 2, "max_length": 200, "max_new_tokens": 4}
    trained, meter, points = train(inputs, resources, "gkd", lmbda=0.5, **settings)
    assert trained.config.num_hidden_layers == 2
    assert meter.totals["trained_tokens"] > 0
    assert all(0 < point["loss"] < 50 for point in points)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_padding_moves_no_position(
    architecture: str, models: dict[str, str], tmp_path: Path
) -> None:
    """Of learned positions above all: rollouts and scores are those of each text alone."""
    config = ModelConfig(model=models[architecture])
    tokenizer, model = load_tokenizer(config), load_model(config, "cpu")
    texts = ["a", "Which of them is longer than the others?", "1+2?"]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    pad = int(tokenizer.pad_token_id)

    # Rollouts.
    options: dict[str, Any] = {"max_new_tokens": 6, "end_ids": [], "pad_id": pad, "seed": 1}
    together = generate(model, prompts, temperature=0.0, batch_size=3, **options)
    alone = [generate(model, [p], temperature=0.0, batch_size=1, **options)[0] for p in prompts]
    assert together == alone

    # Training: the states that the loss is taken from.
    pairs = [(p, list(r.tokens)) for p, r in zip(prompts, together, strict=True)]
    lm_head = LMHead.of(model, trained=True)

    def states(some: Any) -> torch.Tensor:
        batch = PromptCollator(pad).pad(some)
        with torch.no_grad():
            tokens = {"input_ids": batch["input_ids"]}
            return lm_head.states(tokens, counted_positions(batch["labels"]))

    each = torch.cat([states([pair]) for pair in pairs])
    assert torch.allclose(states(pairs), each, atol=1e-4)

    # Scores: sampled answers, and likelihoods.
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": text, "a": "x y"}) + "\n" for text in texts))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    answers = {"output_type": "generate_until", "doc_to_target": "{{a}}"}
    answers |= {"generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6}}
    answers |= {"metric_list": [{"metric": "exact_match"}]}
    texts_whole = {"output_type": "loglikelihood_rolling", "doc_to_target": "{{q}} {{a}}"}
    texts_whole |= {"doc_to_text": "", "metric_list": [{"metric": "byte_perplexity"}]}
    write_yaml(tmp_path / "answers.yaml", {"task": "answers", **common, **answers})
    write_yaml(tmp_path / "whole.yaml", {"task": "whole", **common, **texts_whole})
    tasks = (SuiteTask(task="answers"), SuiteTask(task="whole"))
    suite = SuiteSpec(
        config=SuiteConfig(suite="s", tasks=tasks),
        task_directories=(str(tmp_path),),
        content_hash="",
    )
    found = [
        score(model, tokenizer, suite, batch_size=size, chat=False, samples=3) for size in (1, 3)
    ]
    sampled = [[s.response for s in one.samples if s.task == "answers"] for one in found]
    assert sampled[0] == sampled[1]
    assert len(set(sampled[0])) > 1
    values = [[document.score for document in one.documents] for one in found]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert len(set(values[0][-3:])) == 3


def test_a_template_that_rewrites_what_came_before_is_refused_before_there_are_rows(
    tmp_path: Path,
) -> None:
    drops_thoughts = MISTRAL.replace("[INST] ", "[INST{{ loop.length }}] ")
    path = make_tiny(tmp_path, "mistral", template=drops_thoughts)
    with pytest.raises(BadInputError, match=r"prefix-preserving.*\[INST2\].*\[INST1\]") as caught:
        check_template(load_tokenizer(ModelConfig(model=path)), None)
    assert caught.value.key == ("student", "model")
    assert "data.format: plain" in str(caught.value)


def test_a_template_without_a_place_for_a_system_prompt_is_told(models: dict[str, str]) -> None:
    tokenizer = load_tokenizer(ModelConfig(model=models["gemma2"]))
    check_template(tokenizer, None)
    with pytest.raises(BadInputError, match="System role not supported") as caught:
        check_template(tokenizer, "Be brief.")
    assert caught.value.key == ("data", "system_prompt")
