"""The forecast of memory: its formula on known shapes, the row it makes, and the remedies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from sweeper.commands.check import memory_calibration as calibration
from sweeper.commands.check.memory_calibration import assumption
from sweeper.commands.check.memory_findings import Forecast, StudyTrainings, largest
from sweeper.commands.check.memory_forecast import moments, worst
from sweeper.commands.check.memory_terms import (
    GIB,
    DeviceKind,
    Part,
    Peak,
    Scoring,
    Sizes,
    state_bytes,
    weight_bytes,
)
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory
from sweeper.records import DataSummary, ModelShape, ScoredTask, ShapeRequest
from sweeper.records.remedies import Setup, setup_of
from sweeper.study.extreme_settings import requests, wanted
from tests.support.memory_shapes import (
    DATA,
    KEPT,
    LAYERS,
    LINEAR,
    STUDENT,
    TEACHER,
    VOCABULARY,
    WIDTH,
    config,
    memory_findings,
    room,
    rows,
    shapes,
)


def most(study: StudyConfig, data: DataSummary = DATA, kind: DeviceKind = "cuda") -> Forecast:
    found = largest(StudyTrainings(study, data, shapes), kind)
    assert found is not None
    return found


def setup(arm: str, params: dict[str, Any]) -> Setup:
    study = config()
    return setup_of(
        study.arms[arm],
        params,
        training=study.training,
        student=study.student,
        teacher=study.teacher,
        compute=study.compute,
    )


def forecast(setup: Setup, **changes: Any) -> Peak:
    sizes = Sizes(prompt=256, answer=768, text=1024)
    student = STUDENT.model_copy(update=changes)
    return worst(moments(setup, student, TEACHER if setup.teacher else None, sizes, "cuda"))


def test_weights_and_states_are_counted_exactly() -> None:
    assert weight_bytes(STUDENT) == STUDENT.parameters * 4
    assert weight_bytes(TEACHER) == TEACHER.parameters * 2
    rest = TEACHER.parameters - TEACHER.linear_parameters
    int8 = weight_bytes(TEACHER.model_copy(update={"quantization": "int8"}))
    int4 = weight_bytes(TEACHER.model_copy(update={"quantization": "int4"}))
    assert int8 == TEACHER.linear_parameters + 2 * rest
    assert int4 == TEACHER.linear_parameters * 0.5625 + 2 * rest
    rounded = weight_bytes(STUDENT.model_copy(update={"computing_bytes": 2}), autocast=True)
    assert rounded == 2 * LINEAR + 4 * VOCABULARY * WIDTH
    names = ("adamw_torch", "adamw_bnb_8bit", "lion_32bit", "sgd", "adafactor")
    assert [state_bytes(name) for name in names] == [2, 0.5, 1, 0, 0]


def test_a_training_is_the_sum_of_its_parts_at_its_worst_moment() -> None:
    found = forecast(setup("gkd", {}))
    assert found.moment == "forward and backward"
    assert found.parts["teacher"] == TEACHER.parameters * 2
    assert found.parts["optimiser"] == 8 * STUDENT.parameters
    # Eight texts of 1024 tokens, of which the last activations are kept when the loss begins.
    assert found.parts["activations"] == 8 * 1024 * KEPT.token
    assert found.total == sum(found.parts.values())


@pytest.mark.parametrize(
    ("settings", "part", "smaller"),
    [
        ({"per_device_train_batch_size": 4}, "activations", 0.5),
        ({"gradient_checkpointing": True}, "activations", 0.03),
        ({"optim": "adamw_bnb_8bit"}, "optimiser", 0.25),
    ],
)
def test_what_a_setting_saves(settings: dict[str, Any], part: Any, smaller: float) -> None:
    one = forecast(setup("sft", {})).parts[part]
    less = forecast(setup("sft", settings)).parts.get(part, 0)
    assert less / one == pytest.approx(smaller, abs=0.05)


def test_only_arms_that_compare_with_the_teacher_load_it() -> None:
    for arm in ("sft", "seqkd", "supervised_kd"):
        study = config(arms={arm: {}})
        parts = most(study).peak.parts
        assert ("teacher" in parts) == (arm == "supervised_kd")


def test_gradients_are_there_beside_the_activations_only_when_they_are_accumulated() -> None:
    def gradients(window: int) -> float:
        found = forecast(setup("sft", {"gradient_accumulation_steps": window}))
        return found.parts.get("gradients", 0.0)

    assert gradients(2) - gradients(1) == 4 * STUDENT.parameters


def test_a_rollout_grows_with_the_window_until_it_is_bounded() -> None:
    settings = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 512,
        "max_new_tokens": 1024,
        "lmbda": 1.0,
    }
    free = forecast(setup("gkd", settings))
    assert free.moment == "rollout"
    bounded = forecast(setup("gkd", {**settings, "rollout_batch_size": 8}))
    assert bounded.moment == "forward and backward"
    # Keys and values, four bytes for each channel of each layer; and all prompts are read at once.
    texts = 512 * (256 + 1024) * LAYERS * 2 * 2 * 64 * 4
    assert free.parts["rollouts"] == texts + STUDENT.reading.bytes(512, 256)


def test_the_worst_of_what_is_searched_is_forecast() -> None:
    searched = {
        "per_device_train_batch_size": {"type": "int", "low": 2, "high": 16},
        "teacher.quantization": {"type": "categorical", "choices": ["int8", None]},
        "lmbda": {"type": "float", "low": 0.0, "high": 1.0},
    }
    study = config(arms={"gkd": {"search": searched}, "sft": {}})
    found = most(study)
    assert found.arm == "gkd"
    assert found.setup.settings.per_device_train_batch_size == 16
    assert found.setup.teacher is not None
    assert found.setup.teacher.quantization is None
    assert {request.model.model for request in wanted(study)} == {"small", "big"}


def test_the_row_says_whether_it_fits() -> None:
    needed = most(config()).peak.total / GIB
    states = [rows(needed * factor).state for factor in (1.2, 1.05, 0.9, 0.8, 0.3)]
    assert states == ["ok", "warning", "warning", "warning", "error"]
    fits = rows(needed * 1.2)
    assert fits.detail.startswith("a training of gkd takes about ")
    assert "teacher 14," in fits.detail
    assert fits.advice == ""


def test_the_first_remedy_that_is_enough_is_told_with_what_it_needs() -> None:
    told = rows(40).advice
    assert told.startswith(
        "per_device_train_batch_size: 4 with gradient_accumulation_steps: 2 and rollout_batch_size:"
    )
    assert " of 40 GiB." in told


def test_remedies_are_tried_in_order_and_made_ones_are_passed_over() -> None:
    one = {"max_length": 1025, "per_device_train_batch_size": 1}
    assert rows(24, training=one).advice.startswith("teacher.quantization: int8 needs ")
    quantized = {"model": "big", "dtype": "bfloat16", "quantization": "int4"}
    study = config(training=one, teacher=quantized)

    [found] = memory_findings(study, DATA, shapes, [room(14)])
    assert found.advice.startswith("a smaller teacher.model of 3.8G parameters needs ")


def test_remedies_are_combined_where_one_is_not_enough() -> None:
    told = rows(12).advice
    order = ("batch_size: 1", "int4", "gradient_checkpointing: true", "student.lora")
    places = [told.find(words) for words in order]
    assert places == sorted(places)
    assert -1 not in places
    assert "together need" in told
    assert rows(4).advice.startswith("Even ")


def test_fewer_documents_are_scored_at_a_time_where_it_is_scoring_that_takes_most() -> None:
    asked = scoring(task(1024, likelihoods=True))
    found = most(config(), asked, "cpu")
    assert found.peak.moment == "scoring"
    [finding] = memory_findings(config(), asked, shapes, [main_memory(60)])
    assert "scoring" in finding.detail
    assert finding.advice.startswith("evaluation.batch_size: 16 needs ")
    [finding] = memory_findings(config(), asked, shapes, [main_memory(40)])
    assert "evaluation.batch_size: 8, and then per_device_train_batch_size: 4" in finding.advice


def test_a_gpu_reads_as_many_texts_as_it_has_room_for() -> None:
    """Where it is asked how likely they are; answers are sampled all at a time."""

    def needed(one: ScoredTask, kind: DeviceKind) -> float:
        sizes = Sizes(8, 8, 16, (Scoring(one.texts, one.tokens, one.likelihoods),))
        found = moments(setup("sft", {}), STUDENT, None, sizes, kind)
        return next(peak.parts["scoring"] for peak in found if peak.moment == "scoring")

    for likelihoods in (False, True):
        many, single = (task(1024, texts=n, likelihoods=likelihoods) for n in (64, 1))
        assert needed(many, "cpu") == pytest.approx(64 * needed(single, "cpu"), rel=0.1)
        more = needed(many, "cuda") / needed(single, "cuda")
        assert more == (1 if likelihoods else pytest.approx(64, rel=0.1))


def test_what_is_assumed_of_a_device_is_said() -> None:
    [on_gpu] = memory_findings(config(), DATA, shapes, [room(200)])
    parts = "activations, libraries, logits and loss"
    assert on_gpu.detail.endswith(f"; assumed, not measured on a GPU: {parts}")
    [on_cpu] = memory_findings(config(), DATA, shapes, [main_memory(200)])
    assert "assumed" not in on_cpu.detail
    # What takes next to nothing is left out, as it is of the parts.
    assert assumption({"teacher": 1e12, "libraries": 1.0}, "cuda") == ""


@pytest.mark.parametrize(
    "table", [calibration.LIBRARIES, calibration.SCATTERED, calibration.LAYERS_TOGETHER]
)
def test_a_constant_is_measured_by_a_command_on_a_device_or_assumed(
    table: dict[DeviceKind, calibration.Constant],
) -> None:
    for kind, constant in table.items():
        assert (constant.device is None) == (constant.command is None), kind
        if constant.device is None:
            assert calibration.ASSUMED[kind], "a part that rests on it is named"
    assert table["cpu"].command is not None


def main_memory(gib: float) -> DeviceMemory:
    return DeviceMemory("main memory", "cpu", gib * GIB, gib * GIB)


def task(tokens: int, *, texts: int = 200, likelihoods: bool = False) -> ScoredTask:
    return ScoredTask(task="t", texts=texts, tokens=tokens, likelihoods=likelihoods)


def scoring(*tasks: ScoredTask) -> DataSummary:
    return DATA.model_copy(update={"scored": tasks})


def test_each_task_is_scored_with_its_own_texts() -> None:
    def scored(*tasks: ScoredTask) -> float:
        peak = most(config(), scoring(*tasks), "cpu").peak
        return peak.parts.get("scoring", 0.0)

    short, long = task(128, likelihoods=True), task(4096)
    assert scored(short, long) == max(scored(short), scored(long))
    assert scored(task(4096, likelihoods=True)) > 2 * scored(short, long)
    assert scored(task(4096, texts=24, likelihoods=True)) < scored(task(4096, likelihoods=True))


def test_weights_of_another_type_are_copied_while_they_are_scored() -> None:
    training = most(config(arms={"sft": {}})).setup

    def parts(student: ModelShape, scored_bytes: int) -> tuple[float, float]:
        """Bytes of scoring a task, and of being compared with the teacher on fixed text."""
        sizes = Sizes(8, 8, 16, (Scoring(1, 16, likelihoods=False),), scored_bytes)
        found = moments(training, student, None, sizes, "cuda")
        fixed = max(p.total for p in found if "forward" in p.moment) - weight_bytes(student)
        return next(p.parts["scoring"] for p in found if p.moment == "scoring"), fixed

    packed = {"quantization": "int4", "adapted": True, "trainable_parameters": 0}
    for held, update, copied in (
        (4, {}, STUDENT.parameters),
        (2, {}, STUDENT.parameters),
        (4, packed, STUDENT.parameters - LINEAR),
    ):
        own = {"dtype_bytes": held, "computing_bytes": held}
        student = STUDENT.model_copy(update={**own, **update})
        other = 6 - held
        scoring, fixed = parts(student, other)
        assert scoring == pytest.approx(copied * other, rel=0.02)
        assert fixed >= copied * other
        assert parts(student, held)[0] < 0.02 * copied


def test_an_arm_is_refused_only_if_its_smallest_training_fits_nowhere() -> None:
    search = {
        "per_device_train_batch_size": {"type": "categorical", "choices": [2, 64]},
        "max_new_tokens": {"type": "int", "low": 32, "high": 512},
    }
    searched = {"arms": {"gkd": {"search": search}}}
    assert most(config(**searched)).peak.total > 2 * 40 * GIB
    assert rows(40, **searched).state == "warning"
    # The teacher alone is larger than that.
    refused = rows(10, **searched)
    assert refused.state == "error"
    assert refused.detail.startswith("even the smallest training of gkd takes about ")
    # Half the rows of what does not fit may fit, and scoring can be done with fewer documents.
    whole = forecast(setup("sft", {})).total / GIB
    assert rows(whole / 1.3, arms={"sft": {}}).state == "warning"
    asked = scoring(task(8192, likelihoods=True))
    [finding] = memory_findings(config(), asked, shapes, [room(40)])
    assert finding.state == "warning"


def test_what_others_take_and_what_a_limit_leaves_out_refuses_nothing() -> None:
    shared = DeviceMemory("main memory (64 GiB, which 8 workers share)", "cpu", 8 * GIB, 64 * GIB)
    small = DeviceMemory("a GPU of 8 GiB", "cuda", 8 * GIB, 8 * GIB)
    assert rows(8).state == "error"
    for rooms in ([shared], [small, room(64)]):
        states = {finding.state for finding in memory_findings(config(), DATA, shapes, rooms)}
        assert "error" not in states


def test_a_model_of_which_nothing_is_known_is_named_and_refuses_nothing() -> None:
    def spilled(request: ShapeRequest) -> ModelShape:
        why = "the teacher's device_map decides" if request.model.model == "big" else None
        return shapes(request).model_copy(update={"unforeseen": why})

    of_sft, unknown = memory_findings(config(), DATA, spilled, [room(24)])
    assert of_sft.detail.startswith("a training of sft ")
    assert unknown.state == "warning"
    assert unknown.detail == "not known of some trainings: the teacher's device_map decides"
    [only] = memory_findings(config(arms={"gkd": {}}), DATA, spilled, [room(24)])
    assert only == unknown


def test_a_teacher_that_is_divided_takes_its_part() -> None:
    compute = {"devices_per_trial": 4, "shard_teacher": True}
    part = most(config(compute=compute)).peak.parts["teacher"]
    linear = TEACHER.linear_parameters
    assert part == 2 * (TEACHER.parameters - linear + linear // 4)


def test_layers_that_are_left_out_take_nothing() -> None:
    """Only those that are kept are read."""
    setup = most(config(arms={"sft": {}})).setup
    student = shapes(requests(setup)[0])
    cut = student.model_copy(update={"cut_parameters": 10**9})
    for kind in get_args(DeviceKind):
        sizes = Sizes(512, 512, 1024)
        assert moments(setup, cut, None, sizes, kind) == moments(setup, student, None, sizes, kind)


def test_autocast_keeps_rounded_weights_where_nothing_else_does() -> None:
    recomputed = {"bf16": True, "gradient_checkpointing": True}
    setup = most(config(arms={"sft": {}}, training=recomputed)).setup
    student = shapes(requests(setup)[0])

    def activations(setup: Setup, student: ModelShape) -> float:
        [passes] = [
            one
            for one in moments(setup, student, None, Sizes(512, 512, 1024), "cuda")
            if one.moment == "forward and backward"
        ]
        return passes.parts.get("activations", 0.0)

    # So many of them that this is where the training takes most.
    many = student.model_copy(update={"linear_parameters": 10**10})
    assert activations(setup, many) >= 10**10 * many.computing_bytes
    # A divided student, and one that is not trained itself, have none for longer than they read.
    assert activations(replace(setup, devices=2, shard_student=True), student) < 10**10
    assert activations(setup, many.model_copy(update={"adapted": True})) < 10**10


def test_a_student_that_is_divided_takes_its_part_until_it_samples() -> None:
    arms = {"gkd": {"settings": {"lmbda": 1.0}}}
    whole, divided = (
        most(config(arms=arms, compute={"devices_per_trial": 4, "shard_student": shard})).setup
        for shard in (False, True)
    )
    student, teacher = shapes(requests(whole)[0]), TEACHER

    def parts(setup: Setup, moment: str) -> dict[Part, float]:
        found = moments(setup, student, teacher, Sizes(512, 512, 1024), "cuda")
        return next(dict(one.parts) for one in found if one.moment == moment)

    step, copied = parts(divided, "optimiser step"), parts(whole, "optimiser step")
    assert step["student"] == copied["student"] / 4
    assert step["optimiser"] == copied["optimiser"] / 4
    # A copy's gradients are there once more, on their way.
    assert step["gradients"] == copied["gradients"] / 8
    sampling = parts(divided, "rollout")["rollouts"] - parts(whole, "rollout")["rollouts"]
    assert sampling == copied["student"]


def test_the_studys_teacher_is_always_asked_for() -> None:
    study = config(arms={"sft": {}})
    assert [request.model.model for request in wanted(study)] == ["small", "big"]
    assert "teacher" not in most(study).peak.parts
