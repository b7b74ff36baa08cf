"""Decoding with fixed shapes, on a CPU: the tokens, and what a GPU would have to wait for."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from sweeper.distillation.sampling import rollouts, static_decoding
from sweeper.distillation.sampling.engine_test import SampledWindow
from sweeper.distillation.sampling.graphs import GraphedPass, Graphs
from sweeper.distillation.sampling.requests import Request
from sweeper.distillation.sampling.rollouts import Rollout, generate, generate_static, way_of
from sweeper.distillation.sampling.static_decoding import StaticBatch, tell_once
from sweeper.distillation.sampling.static_models import why_not
from sweeper.foundation.errors import DivergedError
from tests.support.architectures import CONFIGS, EXPERTS, SLOW
from tests.support.sampled_models import (
    ENDS,
    LLAMA,
    SIZES,
    adapted,
    assert_pairs_follow,
    fresh,
    random_prompts,
)

BLOCK = 16
FAST = sorted(CONFIGS.keys() - SLOW.keys())


def request(prompts: Sequence[Sequence[int]], **changes: Any) -> Request:
    options: dict[str, Any] = {
        "numbers": range(len(prompts)),
        "temperature": 0.0,
        "max_new_tokens": 16,
        "ends": frozenset(ENDS),
        "pad_id": 0,
        "seed": 7,
        "batch_size": 64,
    }
    return Request(prompts, **{**options, **changes})


def static(model: Any, prompts: Sequence[Sequence[int]], **changes: Any) -> list[Rollout]:
    return generate_static(model, request(prompts, **changes), graphs=False)


def loop(model: Any, prompts: Sequence[Sequence[int]], **changes: Any) -> list[Rollout]:
    options = {"temperature": 0.0, "max_new_tokens": 16, "ends": ENDS, "batch_size": 64, **changes}
    return generate(
        model, prompts, end_ids=sorted(options.pop("ends")), pad_id=0, seed=7, **options
    )


def library(model: Any, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
    """Greedy answers of ``model.generate`` to prompts padded on the left."""
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    tokens = model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=limit, eos_token_id=ENDS, pad_token_id=0
        ),
    )
    answers = []
    for row in tokens[:, width:].tolist():
        ends = [position for position, token in enumerate(row) if token in ENDS]
        answers.append(tuple(row[: ends[0] + 1] if ends else row))
    return answers


@contextmanager
def passes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what the model is fed, [rows, tokens]."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    try:
        yield shapes
    finally:
        hook.remove()


class Recorder(TorchDispatchMode):
    """Records what is launched, and launches it again: a graph without CUDA."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        made: dict[int, Any] = {}
        for func, args, kwargs, result in self._calls:
            args, kwargs = tree_map(lambda leaf: made.get(id(leaf), leaf), (args, kwargs))
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor):
                    made[id(old)] = new


class RecordedGraphs(Graphs):
    """Graphs that record a pass when it is rehearsed, as nothing but CUDA can without running."""

    def __init__(self, *args: Any) -> None:
        super().__init__(torch.device("cpu"))
        self.problem = None
        self._records: dict[Any, Recorder] = {}

    def rehearse(self, run: Any) -> bool:
        self._records[run] = Recorder()
        with self._records[run]:
            run()
        return True

    def capture(self, run: Any) -> Any:
        return self._records[run].replay


@pytest.mark.parametrize("family", FAST)
def test_every_family_gives_the_answers_of_its_own_generate(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_decoding, "Graphs", RecordedGraphs)
    model = fresh(CONFIGS[family](), spread=4.0)
    assert why_not(model, 28) is None
    prompts = random_prompts(6)
    expected = library(model, prompts, 12)
    # Prompts take the rows of answers that have ended, and windows of 8 slide. Most tokens are of
    # passes that are launched again, in which nothing of the model's own code runs.
    with passes(model) as shapes:
        found = static(model, prompts, max_new_tokens=12, batch_size=3)
    assert len([shape for shape in shapes if shape[1] == 1]) <= 2
    assert [rollout.tokens for rollout in found] == expected
    texts = [len(prompt) + len(answer) for prompt, answer in zip(prompts, expected, strict=True)]
    assert max(texts) > 12


@pytest.mark.parametrize("family", SLOW)
def test_other_families_are_told_why_they_are_slow(family: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    assert SLOW[family] in str(why_not(model, 28))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("make", "batch_size"), [(fresh, 1), (fresh, 7), (fresh, 64), (adapted, 7)]
)
def test_equal_logits_give_the_tokens_of_the_loop(
    make: Any, temperature: float, batch_size: int
) -> None:
    model, prompts = make(LLAMA), random_prompts(16)
    changes: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 40}
    expected = loop(model, prompts, **changes)
    assert len({len(rollout.tokens) for rollout in expected}) > 4
    assert static(model, prompts, **changes, batch_size=batch_size) == expected


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "qwen3_next", "falcon_h1"])
def test_many_small_buckets_give_the_same_answers(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns grow beyond windows of 8, and rows move as answers end."""
    for name, value in (("_BLOCK", 3), ("_FEWEST_ROWS", 1), ("_FEWEST_COLUMNS", 4)):
        monkeypatch.setattr(static_decoding, name, value)
    monkeypatch.setattr(static_decoding, "_MULTIPLE", 2)
    model = fresh(CONFIGS[family](), spread=4.0)
    prompts = random_prompts(9, longest=6)
    expected = library(model, prompts, 24)
    with passes(model) as shapes:
        found = static(model, prompts, max_new_tokens=24, batch_size=5)
    assert [rollout.tokens for rollout in found] == expected
    assert len({rows for rows, tokens in shapes if tokens == 1}) >= 2


def test_prompts_keep_their_numbers_and_the_seed_decides() -> None:
    model, prompts = fresh(LLAMA, spread=3.0), random_prompts(10)
    whole = static(model, prompts, temperature=1.0)
    assert static(model, prompts[4:], temperature=1.0, numbers=range(4, 10)) == whole[4:]
    assert static(model, prompts, temperature=1.0, seed=8) != whole


@pytest.mark.parametrize("vocabulary", [12, 1301])
def test_samples_follow_the_models_distribution(vocabulary: int) -> None:
    config = LlamaConfig(**{**SIZES, "vocab_size": vocabulary})
    model = fresh(config, spread=15.0 if vocabulary > 1000 else 3.0)
    prompt, temperature = [5, 9, 11], 0.7
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 2, "ends": frozenset()}
    found = static(model, [prompt] * 2000, **options, batch_size=1000)
    pairs = [rollout.tokens for rollout in found]
    assert_pairs_follow(model, prompt, temperature, pairs)


@pytest.mark.parametrize("limit", [1, 2, BLOCK, BLOCK + 1, BLOCK + 2])
def test_answers_of_any_length_end_where_the_loops_do(limit: int) -> None:
    model, prompts = fresh(LLAMA), random_prompts(8)
    for ends in (frozenset[int](), frozenset({loop(model, prompts)[0].tokens[0], 3})):
        changes: dict[str, Any] = {"max_new_tokens": limit, "ends": ends}
        assert static(model, prompts, **changes, batch_size=3) == loop(model, prompts, **changes)


def engine(
    model: Any, prompts: Sequence[Sequence[int]], *, end_ids: Sequence[int], **options: Any
) -> list[Rollout]:
    return static(model, prompts, **options, ends=frozenset(end_ids))


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "lfm2"])
def test_autocast_is_the_callers(family: str) -> None:
    model = fresh(CONFIGS[family](), spread=2.0)
    dtypes: set[torch.dtype] = set()
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    window = SampledWindow(
        model=model,
        prompts=random_prompts(12),
        temperature=0.8,
        max_new_tokens=12,
        end_ids=ENDS,
        pad_id=0,
        seed=3,
        batch_size=8,
        autocast=torch.autocast("cpu", torch.bfloat16),
    )
    answers = window.sample(engine, 12)
    hook.remove()
    assert dtypes == {torch.bfloat16}
    deviations, _ = window.read(answers)
    assert abs(deviations) < 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_model_is_as_before(attention: str) -> None:
    model = fresh(LlamaConfig(**SIZES, attn_implementation=attention))
    before, own = model.config.to_dict(), set(vars(model))
    static(model.train(), random_prompts(3))
    assert model.training
    assert (model.config._attn_implementation, model.config.to_dict()) == (attention, before)
    assert set(vars(model)) == own


def test_other_attentions_are_exchanged_for_one_that_takes_masks() -> None:
    model, prompts = fresh(LlamaConfig(**SIZES)), random_prompts(5)
    expected = static(model, prompts)
    model.config._attn_implementation = "flex_attention"
    assert static(model, prompts) == expected
    assert model.config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_model_that_diverged_is_not_sampled_from(at_once: bool) -> None:
    model = fresh(LLAMA)
    prompts = random_prompts(3)
    if at_once:
        model.get_output_embeddings().weight.data.fill_(float("nan"))
    else:
        # Reading one of its answers' tokens is what breaks it.
        answers = loop(model, prompts, ends=frozenset())
        read = {token for rollout in answers for token in rollout.tokens[:-1]}
        token = min(read - {token for prompt in prompts for token in prompt})
        model.get_input_embeddings().weight.data[token] = float("nan")
    with pytest.raises(DivergedError, match="while sampling"):
        static(model, prompts, ends=frozenset())


def test_rows_and_columns_come_in_few_sizes_and_few_ended_answers_are_fed() -> None:
    model, prompts = fresh(LLAMA), random_prompts(60)
    limit, rows = 100, 32
    with passes(model) as shapes:
        found = static(model, prompts, max_new_tokens=limit, batch_size=rows)
    steps = [shape for shape in shapes if shape[1] == 1 and shape[0] in (8, 16, 32)]
    assert {shape[0] for shape in steps} == {8, 16, 32}
    assert steps[-1][0] == 8
    # At most a block is wasted for each answer, besides the free rows of a bucket.
    tokens = sum(len(rollout.tokens) for rollout in found)
    assert len(steps) * 8 <= sum(shape[0] for shape in steps)
    assert len(steps) <= limit + math.ceil(tokens / rows) + BLOCK * len(prompts) / rows


class Launches(TorchDispatchMode):
    """Counts what is launched, and what makes the host wait or copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        name = str(func)
        if "_local_scalar_dense" in name or "nonzero" in name or len(devices) > 1:
            self.waits.append(name)
        return result


class HostCalls(TorchFunctionMode):
    """Counts calls that read tensors on the host, or make tensors of the host's numbers."""

    READS = {
        torch.Tensor.tolist,
        torch.Tensor.item,
        torch.Tensor.cpu,
        torch.Tensor.numpy,
        torch.Tensor.__bool__,
        torch.Tensor.__int__,
        torch.Tensor.__float__,
        torch.Tensor.__index__,
    }
    WRITES = {torch.tensor, torch.as_tensor}

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func in self.READS
        self.writes += func in self.WRITES
        return func(*args, **(kwargs or {}))


def step_of(config: Any, rows: int, dtype: torch.dtype = torch.float32) -> Any:
    """A pass of one token a row, on a device that has no values to look at."""
    device = torch.device("meta")
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    batch = StaticBatch(
        model, request([[9, 10, 11]] * rows, temperature=1.0), device, Graphs(device)
    )
    batch._refill()
    return batch._bucket(rows, batch._width(10))


@pytest.mark.parametrize("family", FAST)
def test_no_pass_waits_for_the_device_or_copies_from_the_host(family: str) -> None:
    """The meta device raises where a value is looked at, and copies to it can be seen."""
    # A device without products of bfloat16 groups loops over the experts.
    dtype = torch.bfloat16 if family in EXPERTS else torch.float32
    with torch.inference_mode():
        run = step_of(CONFIGS[family](), 4, dtype)
        with HostCalls() as calls, Launches() as launches:
            run()
    assert launches.waits == []
    assert (calls.reads, calls.writes) == (0, 0)


def test_launches_do_not_depend_on_the_rows() -> None:
    counts = set()
    for rows in (8, 64):
        with torch.inference_mode():
            run = step_of(LLAMA, rows)
            with Launches() as launches:
                run()
        counts.add(launches.count)
    assert len(counts) == 1


def test_the_host_reads_once_and_writes_once_a_block() -> None:
    model, limit = fresh(LLAMA), 6 * BLOCK
    changes: dict[str, Any] = {"ends": frozenset(), "max_new_tokens": limit, "temperature": 1.0}
    with HostCalls() as calls:
        static(model, [[9, 10]] * 5, **changes)
    assert calls.reads == limit / BLOCK
    # Besides the prompts' rows, lengths, tokens and numbers, and the end tokens.
    assert calls.writes == limit / BLOCK + 5


def test_only_cuda_gets_fixed_shapes_unasked() -> None:
    way, why = way_of(fresh(LLAMA), 20)
    assert way == "loop" and "cpu" in str(why)
    assert way_of(fresh(CONFIGS["gemma3"]()), 20)[0] == "generate"


class OfARepository:
    """A model on CUDA whose class is not the library's."""

    def parameters(self) -> Any:
        return iter([SimpleNamespace(device=torch.device("cuda:0"))])


def test_what_is_slow_on_cuda_is_told() -> None:
    way, why = way_of(OfARepository(), 20)
    assert (way, why) == ("generate", "OfARepository is code of the model's repository")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is told in this test, even if it was told before."""
    tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.mark.parametrize("tokens", [1, None])
def test_a_class_that_fails_is_decoded_in_another_way(
    tokens: int | None, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    model, prompts = fresh(LLAMA), random_prompts(4)
    expected = loop(model, prompts)
    monkeypatch.setattr(rollouts, "way_of", lambda model, length: ("static", None))

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        of_this = type(kwargs["past_key_values"].layers[0]).__module__.endswith("static_states")
        if of_this and tokens in (None, kwargs["input_ids"].shape[1]):
            raise TypeError("unexpected cache")

    hook = model.register_forward_pre_hook(refuse, with_kwargs=True)
    for _ in range(2):
        assert loop(model, prompts) == expected
    hook.remove()
    assert log.text.count("unexpected cache") == 1


class _RecordedGraphs(Graphs):
    """Graphs of a device that there is none of: tells what is asked of it."""

    def __init__(self, waits: int) -> None:
        self.problem = None
        self.asked: list[str] = []
        self._waits = waits

    def rehearse(self, run: Any) -> bool:
        self.asked.append("rehearse")
        run()
        self._waits -= 1
        return self._waits < 0

    def capture(self, run: Any) -> Any:
        self.asked.append("capture")
        return lambda: self.asked.append("replay")


@pytest.mark.parametrize(
    ("waits", "asked", "runs"),
    [
        (0, ["rehearse", "capture", "replay", "replay", "replay"], 1),
        (1, ["rehearse", "rehearse", "capture", "replay", "replay"], 2),
        (9, ["rehearse", "rehearse"], 4),
    ],
)
def test_a_pass_is_captured_once_it_has_run_without_a_wait(
    waits: int, asked: list[str], runs: int
) -> None:
    count = 0

    def run() -> None:
        nonlocal count
        count += 1

    graphs = _RecordedGraphs(waits)
    step = GraphedPass(graphs, run)
    for _ in range(4):
        step()
    assert graphs.asked == asked
    assert count == runs
    assert (graphs.problem is None) is (waits < 2)


def test_there_are_no_graphs_without_cuda(log: pytest.LogCaptureFixture) -> None:
    model, prompts = fresh(LLAMA), random_prompts(3)
    assert generate_static(model, request(prompts), graphs=True) == static(model, prompts)
    assert "without CUDA graphs: there are no graphs on cpu" in log.text
