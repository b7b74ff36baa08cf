from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import pytest
import torch
from scipy.stats import chi2_contingency
from transformers import (
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
)

from sweeper.config.models import ModelConfig
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.distillation.sampling.decoding import suits
from sweeper.distillation.sampling.rollouts import Rollout, generate
from sweeper.foundation.errors import DivergedError
from tests.support.sampled_models import (
    ENDS,
    LLAMA,
    MODELS,
    SIZES,
    VOCABULARY,
    adapted,
    assert_follows,
    fresh,
    random_prompts,
)

TEACHER = ModelConfig(model="builtin/adder-teacher")


def ours(model: Any, prompts: Sequence[Sequence[int]], **changes: Any) -> list[Rollout]:
    options: dict[str, Any] = {
        "temperature": 0.0,
        "max_new_tokens": 16,
        "end_ids": ENDS,
        "pad_id": 0,
        "seed": 7,
        "batch_size": 64,
    }
    return generate(model, prompts, **{**options, **changes})


def stock(model: Any, prompts: Sequence[Sequence[int]], **changes: Any) -> list[Rollout]:
    """What the model's own ``generate`` answers to the prompts, padded on the left."""
    width = max(map(len, prompts))
    options = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": ENDS, "pad_token_id": 0}
    tokens = model.generate(
        input_ids=torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]),
        attention_mask=torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ),
        generation_config=GenerationConfig(**{**options, **changes}),
    )
    rollouts = []
    for row in tokens[:, width:].tolist():
        ends = [position for position, token in enumerate(row) if token in ENDS]
        answer = row[: ends[0] + 1] if ends else row
        rollouts.append(Rollout(tuple(answer), finished=bool(ends)))
    return rollouts


@contextmanager
def passes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what the model is fed, [rows, tokens]."""
    shapes: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        assert not torch.is_grad_enabled()
        shapes.append(tuple(kwargs["input_ids"].shape))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(TEACHER, "cpu")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(TEACHER)
    texts = ["1234+5678?", "1111+2222?", "9999+1?"]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def answers(model: Any, prompts: list[list[int]], **changes: Any) -> list[Rollout]:
    tokenizer = load_tokenizer(TEACHER)
    options: dict[str, Any] = {
        "temperature": 1.0,
        "max_new_tokens": 48,
        "end_ids": end_token_ids(model, tokenizer),
        "pad_id": tokenizer.pad_token_id,
        "seed": 7,
        "batch_size": 8,
    }
    return generate(model, prompts, **{**options, **changes})


def test_greedy_answers_are_the_argmax_of_each_step(model: Any, prompts: list[list[int]]) -> None:
    [answer] = answers(model, prompts[:1], temperature=0.0, max_new_tokens=12)
    tokens = list(prompts[0])
    for token in answer.tokens:
        assert int(model(torch.tensor([tokens])).logits[0, -1].argmax()) == token
        tokens.append(token)


def test_answers_keep_the_order_of_their_prompts(model: Any, prompts: list[list[int]]) -> None:
    together = answers(model, prompts, temperature=0.0)
    alone = [answers(model, [prompt], temperature=0.0)[0] for prompt in prompts]
    small_batches = answers(model, prompts, temperature=0.0, batch_size=2)
    assert together == alone == small_batches


def test_an_answer_ends_with_its_end_token_or_is_cut(model: Any, prompts: list[list[int]]) -> None:
    [whole] = answers(model, prompts[:1], temperature=0.0)
    [cut] = answers(model, prompts[:1], temperature=0.0, max_new_tokens=5)
    assert whole.finished
    assert whole.tokens[-1] == model.generation_config.eos_token_id
    assert (cut.finished, len(cut.tokens)) == (False, 5)
    assert cut.tokens == whole.tokens[:5]


def test_the_seed_alone_decides(model: Any, prompts: list[list[int]]) -> None:
    torch.manual_seed(1)
    random.seed(1)
    states = torch.get_rng_state(), random.getstate()
    first = answers(model, prompts, temperature=3.0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    torch.manual_seed(2)
    assert answers(model, prompts, temperature=3.0) == first
    assert answers(model, prompts, temperature=3.0, seed=8) != first


def test_a_sample_does_not_depend_on_its_batch(model: Any, prompts: list[list[int]]) -> None:
    together = answers(model, prompts, temperature=2.0)
    assert answers(model, prompts, temperature=2.0, batch_size=1) == together
    assert answers(model, prompts[:2], temperature=2.0) == together[:2]
    cut = answers(model, prompts, temperature=2.0, max_new_tokens=3)
    assert [rollout.tokens for rollout in cut] == [rollout.tokens[:3] for rollout in together]


@pytest.mark.parametrize("window", [None, 8])
def test_the_publishers_settings_are_set_aside_and_put_back(window: int | None) -> None:
    model = fresh(MistralConfig(**SIZES, sliding_window=window))
    prompts = random_prompts(6)
    plain = ours(model, prompts, temperature=1.0)
    # With top_k 1 every sample would be the greedy answer.
    inherited = GenerationConfig(
        do_sample=True,
        top_k=1,
        repetition_penalty=1.5,
        suppress_tokens=[plain[0].tokens[0]],
        min_new_tokens=10,
        eos_token_id=1,
        pad_token_id=0,
    )
    model.generation_config = inherited
    assert ours(model, prompts, temperature=1.0) == plain
    assert model.generation_config is inherited


def test_the_models_mode_is_put_back(model: Any, prompts: list[list[int]]) -> None:
    model.train()
    answers(model, prompts, max_new_tokens=2)
    assert model.training
    model.eval()
    answers(model, prompts, max_new_tokens=2)
    assert not model.training


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_answers_are_those_of_the_models_own_generate(kind: str) -> None:
    model = MODELS[kind]()
    prompts = random_prompts(12)
    expected = stock(model, prompts)
    assert len({len(rollout.tokens) for rollout in expected}) > 1
    assert ours(model, prompts) == expected


def test_only_models_that_keep_the_whole_text_get_the_decode_loop() -> None:
    assert suits(fresh(LLAMA), length=1000)
    sliding = fresh(Gemma2Config(**SIZES, sliding_window=8))
    assert suits(sliding, length=8)
    assert not suits(sliding, length=9)
    assert not suits(MODELS["a recurrent state"](), length=8)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_a_tuned_prompt_counts() -> None:
    model = fresh(LLAMA)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tuned = peft.get_peft_model(copy.deepcopy(model), config)
    prompts = random_prompts(4)
    assert ours(tuned, prompts) == stock(tuned, prompts) != ours(model, prompts)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_answers_that_have_ended_leave_and_change_nothing_for_the_others(batch_size: int) -> None:
    model = fresh(LLAMA)
    prompts = random_prompts(40)
    alone = [ours(model, [prompt])[0] for prompt in prompts]
    with passes(model) as shapes:
        assert ours(model, prompts, batch_size=batch_size) == alone
    # The prompt gives an answer's first token, and a row of a pass each of the others.
    assert sum(rows for rows, tokens in shapes if tokens == 1) <= sum(
        len(rollout.tokens) for rollout in alone
    )
    assert sum(rows for rows, _ in shapes) == sum(len(rollout.tokens) for rollout in alone)
    assert max(rows for rows, _ in shapes) <= batch_size


def test_progress_is_reported() -> None:
    done: list[int] = []
    ours(fresh(LLAMA), random_prompts(5), batch_size=2, report=done.append)
    assert done == [1, 2, 3, 4, 5]


def test_an_end_token_may_come_first_and_one_token_may_be_all() -> None:
    model = fresh(LLAMA)
    prompts = random_prompts(6)
    [first, *_] = (rollout.tokens[0] for rollout in ours(model, prompts, end_ids=[2]))
    ended = ours(model, prompts, end_ids=[2, first])
    assert ended[0] == Rollout((first,), finished=True)
    cut = ours(model, prompts, end_ids=[2, first], max_new_tokens=1)
    assert cut[0] == ended[0]
    assert [rollout.tokens for rollout in cut] == [rollout.tokens[:1] for rollout in ended]


def test_no_prompts_have_no_answers() -> None:
    assert ours(fresh(LLAMA), []) == []


def test_half_precision_answers_are_those_of_the_models_own_generate() -> None:
    model = fresh(LLAMA, dtype=torch.bfloat16)
    prompts = random_prompts(12)
    assert ours(model, prompts) == stock(model, prompts)


@pytest.mark.parametrize("wrap", [fresh, adapted])
def test_the_cache_stays_on_with_gradient_checkpointing_and_training_goes_on(wrap: Any) -> None:
    # This kind of position embedding changes the model while it reads long texts.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = wrap(LlamaConfig(**SIZES, max_position_embeddings=12, rope_parameters=rope))
    prompts = random_prompts(6, longest=6)
    expected = ours(model, prompts, end_ids=[2])
    base = model if wrap is fresh else model.get_base_model()
    base.activation_checkpointing_enable()
    base.enable_input_require_grads()
    model.train()
    with passes(base) as shapes:
        assert ours(model, prompts, end_ids=[2]) == expected
    assert {tokens for _, tokens in shapes[1:]} == {1}
    assert model.training
    text = torch.tensor([[*prompts[0], *expected[0].tokens]])
    model(text, labels=text).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("vocabulary", [12, 1301])
def test_samples_follow_the_models_distribution(vocabulary: int) -> None:
    """First tokens, and second tokens after the commonest first one, at a temperature."""
    config = LlamaConfig(**{**SIZES, "vocab_size": vocabulary})
    model = fresh(config, spread=15.0 if vocabulary > 1000 else 3.0)
    prompt = [5, 9, 11]
    temperature, count = 0.7, 4000
    options = {"temperature": temperature, "max_new_tokens": 2, "end_ids": [], "batch_size": 1000}
    pairs = [rollout.tokens for rollout in ours(model, [prompt] * count, **options)]
    with torch.no_grad():
        chances = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        assert_follows(Counter(first for first, _ in pairs), chances)
        likeliest = int(chances.argmax())
        logits = model(torch.tensor([[*prompt, likeliest]])).logits[0, -1]
    seconds = Counter(second for first, second in pairs if first == likeliest)
    assert seconds.total() > 100
    assert_follows(seconds, (logits / temperature).softmax(-1))


def test_samples_are_distributed_like_those_of_the_models_own_generate() -> None:
    model = fresh(LLAMA, spread=3.0)
    prompts = [[9, 20, 30], [11]] * 1000
    mine = ours(model, prompts, temperature=1.3, max_new_tokens=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        settings = {"do_sample": True, "temperature": 1.3, "top_k": 0, "max_new_tokens": 3}
        theirs = stock(model, prompts, **settings)
    for position in range(3):
        table = [
            Counter(r.tokens[position] for r in rollouts if len(r.tokens) > position)
            for rollouts in (mine, theirs)
        ]
        tokens = [token for token in range(VOCABULARY) if table[0][token] + table[1][token] >= 20]
        assert len(tokens) > 10
        observed = [[counts[token] for token in tokens] for counts in table]
        assert chi2_contingency(observed).pvalue > 1e-3


def test_a_model_that_diverged_is_told_and_not_sampled_from() -> None:
    model = fresh(LLAMA)
    model.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="while sampling"):
        ours(model, random_prompts(3), temperature=1.0)


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ((), None),
        ((1, 2, 3), None),
        ((1, 2, 3, 4), 0.0),
        ((1, 1, 1, 1, 1), 0.5),
        ((7,) * 13, 0.9),
        ((1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1), 0.8),
        (tuple(range(50)), 0.0),
    ],
)
def test_repetition_is_the_share_of_4_grams_seen_before(
    tokens: tuple[int, ...], share: float | None
) -> None:
    assert Rollout(tokens, finished=True).repetition() == (share and pytest.approx(share))
