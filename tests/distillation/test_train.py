"""Training jobs through their public seam, with TRL and real models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig, WarmStartConfig
from sweeper.config.settings import Method, TrainingConfig
from sweeper.distillation.data.batches import SPAN, EndlessPermutations, LengthBuckets
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.start import starting_student
from sweeper.distillation.teacher import kl_probe
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.errors import BadInputError, DivergedError
from sweeper.records import Resources
from tests.support.tiny_studies import DATA
from tests.support.training_jobs import SETTINGS, make_study_inputs, train

TEACHER = ModelConfig(model="builtin/adder-teacher")
STUDENT = StudentConfig(model="builtin/adder-student")


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(directory=str(tmp_path), device="cpu", threads=1)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("method", ["sft", "seqkd", "supervised_kd", "gkd"])
def test_every_method_trains_and_counts(
    tmp_path: Path, resources: Resources, method: Method
) -> None:
    inputs = make_study_inputs(tmp_path)
    start = weights(starting_student(read_training_data(inputs), resources))
    model, meter, points = train(inputs, resources, method, lmbda=1.0)
    cost = meter.cost()
    assert not torch.equal(start, weights(model))
    assert cost.steps == 3
    assert len(points) == 3
    assert points[-1]["trained_tokens"] == cost.trained_tokens > 0
    if method == "gkd":
        # Twelve prompts, ten tokens each; an untrained student hardly ever ends earlier.
        assert 80 <= cost.generated_tokens <= 120
        assert cost.trained_tokens == cost.generated_tokens
        assert points[-1]["on_policy_share"] == 1.0
        assert points[-1]["rollout_length"] <= 10
        assert points[-1]["truncated_share"] > 0.5
        assert points[-1]["ended_share"] == 1 - points[-1]["truncated_share"]
        assert points[-1]["rollouts"] == 4
        assert 0 <= points[-1]["repetition"] < 1
        # Between certainty and the uniform distribution over the 18 tokens.
        for name in ("student_entropy", "teacher_entropy"):
            assert 0 < points[0][name] < math.log(18)
        assert points[0]["teacher_logprob"] < 0
        rollouts = meter.rollouts()
        assert rollouts is not None and rollouts.truncated_share is not None
        assert rollouts.length == cost.generated_tokens / 12
        assert (rollouts.on_policy_share, rollouts.truncated_share > 0.5) == (1.0, True)
        assert rollouts.teacher_logprob == pytest.approx(
            sum(point["teacher_logprob"] * point["rollout_length"] for point in points)
            / sum(point["rollout_length"] for point in points)
        )
    else:
        assert not {"rollouts", "repetition", "student_entropy"} & points[-1].keys()
        assert cost.generated_tokens == 0
    parts = {"sft": {"student", "optimiser"}, "seqkd": {"student", "optimiser"}}
    expected = parts.get(method, {"student", "optimiser", "teacher"})
    measured = {part for part, seconds in cost.seconds.items() if seconds > 0}
    assert measured == expected | ({"rollout"} if method == "gkd" else set())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "gkd"])
def test_the_seed_decides_everything(tmp_path: Path, resources: Resources, method: Method) -> None:
    inputs = make_study_inputs(tmp_path)
    torch.manual_seed(1)
    first, _, _ = train(inputs, resources, method, seed=5)
    torch.manual_seed(2)
    again, _, _ = train(inputs, resources, method, seed=5)
    other, _, _ = train(inputs, resources, method, seed=6)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_fewer_rollouts_at_a_time_give_the_same_training(
    tmp_path: Path, resources: Resources
) -> None:
    inputs = make_study_inputs(tmp_path)
    options = {"lmbda": 1.0, "gradient_accumulation_steps": 2}
    _, meter, points = train(inputs, resources, "gkd", **options)
    _, few, again = train(inputs, resources, "gkd", rollout_batch_size=3, **options)
    assert few.cost().generated_tokens == meter.cost().generated_tokens
    losses = [[point["loss"] for point in curve] for curve in (points, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_coin_lands_on_policy_as_often_as_lmbda_says(
    tmp_path: Path, resources: Resources
) -> None:
    _, meter, _ = train(
        make_study_inputs(tmp_path),
        resources,
        "gkd",
        lmbda=0.3,
        max_steps=20,
        gradient_accumulation_steps=5,
        per_device_train_batch_size=1,
        max_new_tokens=1,
    )
    # 100 micro-batches: 30 expected, and four standard deviations are 18.
    assert 12 < meter.totals["on_policy"] < 48


@pytest.mark.slow
def test_on_policy_loss_is_a_mean_over_the_generated_tokens(
    tmp_path: Path, resources: Resources
) -> None:
    """With one token per rollout, stock divides the sum over 4 by the references' 160 or so."""
    inputs = make_study_inputs(tmp_path)
    options = {"lmbda": 1.0, "max_new_tokens": 1, "max_steps": 1}
    _, ours, [point] = train(inputs, resources, "gkd", **options)
    _, _, [stock] = train(inputs, resources, "gkd", stock_normalization=True, **options)
    _, reference, _ = train(inputs, resources, "supervised_kd", max_steps=1)
    ratio = reference.totals["trained_tokens"] / ours.totals["trained_tokens"]
    assert ratio > 30
    assert point["loss"] == pytest.approx(stock["loss"] * ratio, rel=1e-4)


@pytest.mark.slow
def test_off_policy_gkd_follows_the_stock_trainer(tmp_path: Path, resources: Resources) -> None:
    """At lmbda 0 nothing is mended but padding and masking: same sequences, same losses."""
    inputs = make_study_inputs(tmp_path)
    options = {
        "lmbda": 0.0,
        "beta": 0.5,
        "max_steps": 20,
        "stock_normalization": True,
        "learning_rate": 1.0e-4,
    }
    _, ours, points = train(inputs, resources, "gkd", length_bucketing=False, **options)
    _, stock, theirs = train(inputs, resources, "gkd", engine="trl", **options)
    assert len(points) == 20
    assert [p["loss"] for p in points] == pytest.approx([p["loss"] for p in theirs], rel=1e-3)
    assert ours.totals["trained_tokens"] == stock.totals["trained_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "seqkd", "gkd"])
def test_the_stock_engine_runs_and_is_counted(
    tmp_path: Path, resources: Resources, method: Method
) -> None:
    _, meter, points = train(
        make_study_inputs(tmp_path), resources, method, engine="trl", lmbda=1.0
    )
    assert len(points) == 3
    if method == "gkd":
        assert meter.totals["trained_tokens"] == meter.totals["generated_tokens"] > 0
        assert points[-1]["rollout_length"] > 0
        # What TRL does not show is not guessed.
        unknown = ("truncated_share", "ended_share", "repetition", "student_entropy")
        rollouts = meter.rollouts()
        assert not points[-1].keys() & set(unknown)
        assert [getattr(rollouts, name) for name in unknown] == [None] * 4
    else:
        ours = train(make_study_inputs(tmp_path), resources, method)[1]
        assert meter.totals["trained_tokens"] == ours.totals["trained_tokens"]


@pytest.mark.slow
def test_the_distillation_trainer_of_trl_runs_and_is_counted(
    tmp_path: Path, resources: Resources
) -> None:
    options = {"lmbda": 1.0, "beta": 0.0, "gradient_accumulation_steps": 2}
    inputs = make_study_inputs(tmp_path)
    _, meter, points = train(inputs, resources, "gkd", engine="trl-distillation", **options)
    _, ours, _ = train(inputs, resources, "gkd", **options)
    assert len(points) == 3
    assert meter.totals["trained_tokens"] == meter.totals["generated_tokens"] > 0
    for count in ("rollouts", "on_policy", "micro_batches"):
        assert meter.totals[count] == ours.totals[count]
    assert meter.totals["seconds_rollout"] > 0


@pytest.mark.slow
def test_supervised_kd_on_the_teachers_own_answers(tmp_path: Path, resources: Resources) -> None:
    # Cut at 5 tokens, the teacher's answers cannot be the references, which it otherwise repeats.
    inputs = make_study_inputs(tmp_path, teacher_outputs=TeacherOutputsConfig(max_new_tokens=5))
    _, references, _ = train(inputs, resources, "supervised_kd", max_steps=1)
    _, answers, _ = train(inputs, resources, "supervised_kd", max_steps=1, seq_kd=True)
    _, seqkd, _ = train(inputs, resources, "seqkd", max_steps=1)
    assert answers.totals["trained_tokens"] == seqkd.totals["trained_tokens"] == 4 * 5
    assert references.totals["trained_tokens"] > 100
    # Both methods read the one stored set of answers.
    assert len(list((tmp_path / "cache" / "teacher_outputs").glob("[!.]*"))) == 1


@pytest.mark.slow
def test_more_tokens_of_the_teacher_come_closer_to_all(
    tmp_path: Path, resources: Resources
) -> None:
    """With stored states of the teacher too, the loss grows to the exact one's."""
    losses = {}
    for gibibytes in (0.0, 1.0):
        inputs = make_study_inputs(tmp_path / str(gibibytes), teacher_states_gib=gibibytes)
        for k in (1, 4, 18):
            signal = {"teacher_signal": "top_k", "teacher_top_k": k, "max_steps": 2}
            _, _, points = train(inputs, resources, "supervised_kd", **signal)
            losses[gibibytes, k] = [point["loss"] for point in points]
        _, _, points = train(inputs, resources, "supervised_kd", max_steps=2)
        exact = [point["loss"] for point in points]
        assert losses[gibibytes, 18] == pytest.approx(exact, rel=1e-5)
        assert losses[gibibytes, 1][0] < losses[gibibytes, 4][0] < exact[0]
    assert losses[0.0, 4] == pytest.approx(losses[1.0, 4], rel=1e-5)


@pytest.mark.slow
def test_one_sampled_token_trains_and_shows_what_is_watched(
    tmp_path: Path, resources: Resources
) -> None:
    inputs = make_study_inputs(tmp_path)
    settings = {"lmbda": 1.0, "temperature": 1.0, "max_steps": 1}
    _, _, [exact] = train(inputs, resources, "gkd", beta=1.0, **settings)
    student, _, [sampled] = train(inputs, resources, "gkd", teacher_signal="sampled", **settings)
    start = weights(starting_student(read_training_data(inputs), resources))
    assert not torch.equal(weights(student), start)
    # On the same rollouts: the estimate is of about 40 tokens.
    assert sampled["rollout_length"] == exact["rollout_length"]
    assert sampled["loss"] != exact["loss"]
    for name in ("student_entropy", "teacher_entropy", "teacher_logprob"):
        assert sampled[name] == pytest.approx(exact[name], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("signal", ["exact", "top_k", "sampled"])
def test_engines_log_probabilities_are_compared_with_the_trainings(
    tmp_path: Path, resources: Resources, signal: str, temperature: float
) -> None:
    inputs = make_study_inputs(tmp_path, rollout_engine="transformers")
    options = {"lmbda": 1.0, "teacher_signal": signal, "temperature": temperature}
    _, meter, points = train(inputs, resources, "gkd", gradient_accumulation_steps=2, **options)
    rollouts = meter.rollouts()
    assert rollouts is not None and rollouts.logprob_diff is not None
    assert 0 < rollouts.logprob_diff < 1e-4
    for point in points:
        assert 0 < point["rollout_logprob_diff"] <= point["rollout_logprob_diff_max"] < 1e-3
    assert rollouts.logprob_diff_max == max(p["rollout_logprob_diff_max"] for p in points)
    _, meter, points = train(make_study_inputs(tmp_path), resources, "gkd", **options)
    assert "rollout_logprob_diff" not in points[-1]
    rollouts = meter.rollouts()
    assert rollouts is not None and rollouts.logprob_diff is None


@pytest.mark.slow
def test_bfloat16_follows_float32(tmp_path: Path, resources: Resources) -> None:
    inputs = make_study_inputs(tmp_path)
    start = load_model(inputs.student, "cpu")
    for lmbda in (0.0, 1.0):
        losses = []
        for bf16 in (False, True):
            model, meter, points = train(inputs, resources, "gkd", lmbda=lmbda, bf16=bf16)
            losses.append([point["loss"] for point in points])
            # Weights rounded for sampling must not stand in for those that train.
            assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
            assert bool(meter.totals["generated_tokens"]) == bool(lmbda)
        assert losses[1] == pytest.approx(losses[0], rel=0.25)


def test_an_adapter_is_all_that_trains(tmp_path: Path, resources: Resources) -> None:
    student = StudentConfig(model=STUDENT.model, lora=LoraConfig(r=2, dropout=0.5))
    inputs = make_study_inputs(tmp_path, student=student)
    start = starting_student(read_training_data(inputs), resources)
    model, _, points = train(inputs, resources, "gkd", lmbda=1.0)
    assert torch.equal(
        start.model.layers[0].mlp.up_proj.weight,
        model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight,
    )
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert len(points) == 3


def test_the_warm_start_is_trained_once_and_is_the_common_start(
    tmp_path: Path, resources: Resources
) -> None:
    inputs = make_study_inputs(
        tmp_path,
        warm_start=WarmStartConfig(max_steps=2),
        training=TrainingConfig(
            **{key: value for key, value in SETTINGS.items() if key != "max_new_tokens"}
        ),
    )
    training_data = read_training_data(inputs)
    points: list[int] = []
    first = starting_student(
        training_data, resources, lambda step, total, metrics: points.append(step)
    )
    again = starting_student(
        training_data, resources, lambda step, total, metrics: points.append(step)
    )
    assert points == [1, 2]
    assert torch.equal(weights(first), weights(again))
    without_warm_start = inputs.model_copy(update={"warm_start": None})
    cold = starting_student(read_training_data(without_warm_start), resources)
    assert not torch.equal(weights(first), weights(cold))


def test_a_student_from_nothing_is_drawn_from_the_studys_seed(
    tmp_path: Path, resources: Resources
) -> None:
    student = StudentConfig(model=STUDENT.model, random_init=True)

    def start(seed: int) -> torch.Tensor:
        inputs = make_study_inputs(tmp_path, student=student, seed=seed)
        return weights(starting_student(read_training_data(inputs), resources))

    torch.manual_seed(1)
    first = start(seed=1)
    torch.manual_seed(2)
    assert torch.equal(start(seed=1), first)
    assert not torch.equal(start(seed=2), first)
    trained = make_study_inputs(tmp_path)
    stored = weights(starting_student(read_training_data(trained), resources))
    assert not torch.equal(stored, first)


def test_prompts_without_references_train_on_policy_or_on_teacher_outputs(
    tmp_path: Path, resources: Resources
) -> None:
    rows = tmp_path / "prompts.jsonl"
    rows.write_text('{"prompt": "12+34?"}\n{"prompt": "5+6?"}\n')
    inputs = make_study_inputs(
        tmp_path,
        data=DataConfig(train=DatasetConfig(path=str(rows))),
        data_files=(str(rows),),
    )
    train(inputs, resources, "gkd", lmbda=1.0)
    train(inputs, resources, "seqkd")
    with pytest.raises(BadInputError, match="some rows have none"):
        train(inputs, resources, "sft")
    with pytest.raises(BadInputError, match="some rows have none"):
        train(inputs, resources, "gkd", lmbda=0.5)


def test_a_learning_rate_that_diverges(tmp_path: Path, resources: Resources) -> None:
    with pytest.raises(DivergedError, match="training diverged"):
        train(make_study_inputs(tmp_path), resources, "sft", learning_rate=1e30, max_steps=8)


def test_real_rows_through_a_chat_template(
    tmp_path: Path, resources: Resources, tiny_teacher: str, tiny_student: str
) -> None:
    path = str(DATA / "gsm8k-train.jsonl")
    inputs = make_study_inputs(
        tmp_path,
        teacher=ModelConfig(model=tiny_teacher),
        student=StudentConfig(model=tiny_student),
        data=DataConfig(train=DatasetConfig(path=path, limit=8)),
        data_files=(path,),
    )
    assert read_training_data(inputs).chat
    _, meter, points = train(inputs, resources, "gkd", lmbda=0.5, max_length=600)
    assert meter.steps == 3
    assert all(point["loss"] >= 0 for point in points)


def test_vocabularies_that_differ_are_refused(tmp_path: Path, tiny_student: str) -> None:
    inputs = make_study_inputs(tmp_path, student=StudentConfig(model=tiny_student))
    with pytest.raises(BadInputError, match="vocabularies"):
        read_training_data(inputs)


def test_batches_are_full_and_epochs_follow_each_other() -> None:
    indices = list(EndlessPermutations(rows=5, draws=12, seed=1))
    assert len(indices) == 12
    assert sorted(indices[:5]) == sorted(indices[5:10]) == list(range(5))
    assert indices[:5] != indices[5:10]
    assert list(EndlessPermutations(rows=5, draws=12, seed=1)) == indices
    assert list(EndlessPermutations(rows=5, draws=12, seed=2)) != indices


def test_buckets_hold_the_same_rows_in_batches_of_similar_length() -> None:
    lengths = [(7 * row) % 101 + 1 for row in range(100)]
    plain = EndlessPermutations(rows=100, draws=256, seed=1)
    bucketed = list(LengthBuckets(plain, lengths, batch_size=4, seed=1))
    span = SPAN * 4
    for start in range(0, 256, span):
        assert sorted(bucketed[start : start + span]) == sorted(list(plain)[start : start + span])

    def padding(rows: list[int]) -> int:
        batches = [[lengths[row] for row in rows[i : i + 4]] for i in range(0, len(rows), 4)]
        return sum(4 * max(batch) - sum(batch) for batch in batches)

    assert padding(bucketed) < padding(list(plain)) / 5
    # Not from short to long: the order of the batches is random.
    longest = [max(lengths[row] for row in bucketed[i : i + 4]) for i in range(0, span, 4)]
    assert longest != sorted(longest)
    assert list(LengthBuckets(plain, lengths, batch_size=4, seed=1)) == bucketed


def test_tokens_are_made_once_and_read_without_the_rows(tmp_path: Path) -> None:
    inputs = make_study_inputs(tmp_path)
    training_data = read_training_data(inputs)
    first = training_data.tokens(96)
    known = inputs.model_copy(
        update={
            "data_fingerprint": training_data.fingerprint,
            "data": DataConfig(train=DatasetConfig(path="builtin/no such data")),
        }
    )
    assert read_training_data(known).tokens(96) == first
    assert training_data.tokens(20) != first


def test_what_is_in_the_cache_is_found_by_a_tokenizer_that_was_used(tmp_path: Path) -> None:
    inputs = make_study_inputs(tmp_path)
    used, fresh = read_training_data(inputs), read_training_data(inputs)
    used.tokenizer(["1+1?", "1000+1?"], padding=True, truncation=True, max_length=4)
    assert used.text_key == fresh.text_key


def test_the_distance_from_the_teacher_is_followed(tmp_path: Path, resources: Resources) -> None:
    inputs = make_study_inputs(tmp_path)
    training_data = read_training_data(inputs)
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    prompts = [f"{1000 + i}+{2000 + i}?" for i in range(20)]
    directory = kl_probe.prepare(training_data, teacher, prompts)
    fixed = kl_probe.read(directory)
    assert fixed is not None
    _, meter, points = train(inputs, resources, "sft", max_steps=8, probe=fixed.divergence)
    seen = [point["teacher_divergence"] for point in points if "teacher_divergence" in point]
    assert len(seen) == 4
    assert all(0 < value < math.log(2) for value in seen)
    assert meter.cost().seconds["diagnostics"] > 0
    _, _, unfollowed = train(inputs, resources, "sft", max_steps=8)
    assert [p["loss"] for p in unfollowed] == [p["loss"] for p in points]
