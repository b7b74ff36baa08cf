"""Arms differ in their sequences and their loss, and in nothing else.

Every method trains every kind of student. An update of a library that adds a side effect to one of
them fails here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.sampling import engines
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.start import starting_student
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.train import TrainingJob, distil, training_sequences
from sweeper.distillation.trainers import distiller
from sweeper.records import Resources
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs

pytestmark = pytest.mark.slow

ROWS = 4
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Kind:
    """A kind of student.

    Attributes:
        architecture: Of the model.
        student: Keys of the student.
        model: Of the model's configuration.
        settings: Of the training.
    """

    architecture: str = "qwen2"
    student: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


LORA = LoraConfig(r=4, alpha=8)
SAVING = LoraConfig(r=4, alpha=8, modules_to_save=("lm_head", "norm", "embed_tokens"))
KINDS = {
    "whole, tied head": Kind(),
    "whole, untied head": Kind(model={"tie_word_embeddings": False}, settings={"beta": 0.0}),
    "in bfloat16 autocast": Kind(settings={"bf16": True}),
    "layer-cut": Kind(student={"keep_layers": (0, 2)}, model={"layers": 3}, settings={"beta": 1.0}),
    "LoRA": Kind(student={"lora": LORA}),
    "LoRA on bfloat16 weights": Kind(student={"lora": LORA, "dtype": "bfloat16"}),
    "LoRA and whole modules on bfloat16 weights": Kind(
        student={"lora": SAVING, "dtype": "bfloat16"}, model={"tie_word_embeddings": False}
    ),
    "QLoRA int4 and whole modules": Kind(
        student={"lora": SAVING, "quantization": "int4"},
        model={"tie_word_embeddings": False, "width": 64},
    ),
    "QLoRA int4": Kind(student={"lora": LORA, "quantization": "int4"}, model={"width": 64}),
    "QLoRA int8": Kind(student={"lora": LORA, "quantization": "int8"}, model={"width": 64}),
    "mixture of experts": Kind("qwen3_moe", model={"router_aux_loss_coef": 1.0}),
    "mixture that reports its router": Kind(
        "mixtral", model={"output_router_logits": True, "router_aux_loss_coef": 1.0}
    ),
    "mixture of experts, LoRA": Kind("qwen3_moe", student={"lora": LORA}),
    "soft-capped": Kind("gemma2"),
    "with scaled logits": Kind("granite"),
    "with scaled logits in bfloat16 autocast": Kind("granite", settings={"bf16": True}),
    "without an end token in its template": Kind("glm4"),
    "checkpointed activations": Kind(settings={"gradient_checkpointing": True}),
    "four tokens of the teacher": Kind(settings={"teacher_signal": "top_k", "teacher_top_k": 4}),
    "four tokens of the teacher, LoRA, soft-capped": Kind(
        "gemma2",
        student={"lora": LORA},
        settings={"teacher_signal": "top_k", "teacher_top_k": 4, "beta": 1.0},
    ),
    "64 tokens of the teacher in bfloat16 autocast": Kind(
        settings={"teacher_signal": "top_k", "teacher_top_k": 64, "bf16": True}
    ),
    "one sampled token": Kind(settings={"teacher_signal": "sampled", "temperature": 0.7}),
    "one sampled token, LoRA, soft-capped": Kind(
        "gemma2", student={"lora": LORA}, settings={"teacher_signal": "sampled"}
    ),
}


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(directory=str(tmp_path_factory.mktemp("job")), device="cpu", threads=1)


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: weights.detach().clone() for name, weights in model.named_parameters()}


def written_config(model: Any, folder: Path) -> dict[str, Any]:
    """Return what the model's folder says of the model."""
    model.config.save_pretrained(folder)
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def documented_loss(
    student: Any,
    teacher: Any,
    sequences: Sequence[TokenSequence],
    method: Method,
    settings: MethodSettings,
) -> float:
    """Compute a method's loss from the models' own logits, a sequence at a time."""
    total, tokens = 0.0, 0
    for sequence in sequences:
        answer = torch.tensor(sequence.completion)
        ids = torch.tensor([[*sequence.prompt, *sequence.completion]])
        rows = slice(len(sequence.prompt) - 1, -1)
        logits = student(ids).logits[0, rows].double()
        log_p = logits.log_softmax(-1)
        if method in ("supervised_kd", "gkd"):
            log_q = teacher(ids).logits[0, rows].double().log_softmax(-1)
            if settings.teacher_signal == "sampled":
                total += sampled_estimate(logits, log_q, answer[:, None], settings.temperature)
                tokens += len(answer)
                continue
            if settings.teacher_signal == "top_k":
                best = log_q.topk(settings.teacher_top_k).indices
                log_p, log_q = (merged(log, best) for log in (log_p, log_q))
            total += divergence(log_p, log_q, settings.beta)
        else:
            total -= float(log_p.gather(-1, answer[:, None]).sum())
        tokens += len(answer)
    return total / tokens


def merged(log_p: Tensor, tokens: Tensor) -> Tensor:
    """Merge all other tokens into one outcome."""
    others = log_p.exp().scatter(-1, tokens, 0.0).sum(-1, keepdim=True).log()
    return torch.cat([log_p.gather(-1, tokens), others], -1)


def sampled_estimate(logits: Tensor, log_q: Tensor, tokens: Tensor, temperature: float) -> float:
    """Estimate KL(student‖teacher) by tokens sampled at a temperature."""
    log_p, sampled_from = (
        x.log_softmax(-1).gather(-1, tokens) for x in (logits, logits / temperature)
    )
    weights = (log_p - sampled_from).exp()
    return float((weights * (log_p - log_q.gather(-1, tokens))).sum())


def divergence(log_p: Tensor, log_q: Tensor, beta: float) -> float:
    """Compute the generalized Jensen–Shannon divergence by its definition, summed over rows."""
    p, q = log_p.exp(), log_q.exp()
    if beta == 0:
        return float((q * (log_q - log_p)).sum())
    if beta == 1:
        return float((p * (log_p - log_q)).sum())
    log_m = (beta * q + (1 - beta) * p).log()
    return float((beta * q * (log_q - log_m) + (1 - beta) * p * (log_p - log_m)).sum())


class Watch:
    """What trainers do, without a change to it.

    Attributes:
        rollouts: Sequences that students sampled to be trained on.
        on_rollouts: Called with those of each step, before it.
        trainers: Trainers, once they have trained.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rollouts: list[TokenSequence] = []
        self.on_rollouts: Callable[[list[TokenSequence]], None] = lambda found: None
        self.trainers: list[Any] = []
        monkeypatch.setattr(engines, "generate", self._generate)
        train = distiller.Distiller.train

        def watched(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.trainers.append(trainer)
            return train(trainer, *args, **kwargs)

        monkeypatch.setattr(distiller.Distiller, "train", watched)

    def _generate(self, model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> Any:
        rollouts = generate(model, prompts, **options)
        pairs = zip(prompts, rollouts, strict=True)
        found = [TokenSequence(tuple(prompt), rollout.tokens) for prompt, rollout in pairs]
        self.rollouts += found
        self.on_rollouts(found)
        return rollouts

    def optimisation(self) -> dict[str, Any]:
        """Return how the last trainer optimised: its arguments and its optimiser's."""
        trainer = self.trainers[-1]
        arguments = trainer.args.to_dict()
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            | {"weights": sum(weights.numel() for weights in group["params"])}
            for group in trainer.optimizer.param_groups
        ]
        return {**{k: v for k, v in arguments.items() if k not in _PLACES}, "groups": groups}


_PLACES = ("output_dir", "logging_dir")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def name_in_model(name: str) -> str:
    """Return what a weight is called without an adapter."""
    for part in ("base_model.model.", ".base_layer", ".modules_to_save.default"):
        name = name.replace(part, "")
    return name


def check_weights(method: Method, before: dict[str, Tensor], trained: Any) -> None:
    """Check that what is trained is in float32 and moves, and that nothing else does."""
    for name, weights in trained.named_parameters():
        if weights.requires_grad:
            assert weights.dtype == torch.float32, (method, name)
        base = name_in_model(name)
        if base in before and before[base].shape == weights.shape:
            same = torch.equal(before[base].to(weights.dtype), weights)
            assert weights.requires_grad != same, (method, name)
        elif "lora_" in name:
            assert (weights != 0).float().mean() > 0.99, (method, name)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")  # PEFT's, of fused experts
@pytest.mark.parametrize("name", KINDS)
def test_arms_differ_in_nothing_but_sequences_and_loss(
    name: str, resources: Resources, watch: Watch, tmp_path: Path
) -> None:
    kind = KINDS[name]
    if "quantization" in kind.student:
        pytest.importorskip("bitsandbytes")
    student = make_tiny(tmp_path / "student", kind.architecture, seed=1, spread=2.0, **kind.model)
    teacher = ModelConfig(
        model=make_tiny(tmp_path / "teacher", kind.architecture, seed=2, spread=2.0)
    )
    inputs = make_study_inputs(
        tmp_path,
        teacher=teacher,
        student=StudentConfig(model=student, **kind.student),
        data=DataConfig(train=DatasetConfig(path="builtin/addition", limit=ROWS)),
        teacher_outputs=TeacherOutputsConfig(max_new_tokens=8),
    )
    data = read_training_data(inputs)
    shared_teacher = SharedTeacher(inputs, teacher, resources)
    probe = torch.tensor([[5, 9, 13, 30, 42]])
    rounded = kind.settings.get("bf16") or kind.student.keys() & {"dtype", "quantization"}
    seen: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        values = {
            "max_steps": 3,
            # Each step sees all rows.
            "per_device_train_batch_size": ROWS,
            "length_bucketing": False,
            "learning_rate": 1e-4,
            "max_length": 400,
            "max_new_tokens": 6,
            "lmbda": 1.0,
            "beta": 0.5,
            "logging_steps": 1,
            **kind.settings,
        }
        if method != "gkd" and values.get("teacher_signal") == "sampled":
            values["teacher_signal"] = "exact"  # they sample nothing
        settings = effective(method, MethodSettings(**values))
        sequences = training_sequences(data, shared_teacher, method, settings).sequences
        start = starting_student(data, resources).eval()
        config = written_config(start, tmp_path / f"before-{method}")
        before = weights_of(start)
        scored = start(probe).logits
        points: list[dict[str, float]] = []
        expected: list[float] = []
        read = load_model(teacher, "cpu")

        @torch.no_grad()
        def expect(
            trained_on: Sequence[TokenSequence],
            student: Any = start,
            read: Any = read,
            method: Method = method,
            settings: MethodSettings = settings,
            expected: list[float] = expected,
        ) -> None:
            expected.append(documented_loss(student, read, trained_on, method, settings))

        watch.rollouts.clear()
        watch.on_rollouts = expect
        offline = method != "gkd"
        if offline:
            expect(sequences)

        def report(
            step: int,
            total: int,
            metrics: dict[str, float],
            points: list[dict[str, float]] = points,
            expect: Callable[..., None] = expect,
            sequences: Sequence[TokenSequence] = sequences,
            offline: bool = offline,
        ) -> None:
            points.append(metrics)
            if offline and step < total:
                expect(sequences)  # of the next step

        with torch.enable_grad():
            trained, _ = distil(
                TrainingJob(
                    data=data,
                    resources=resources,
                    model=start,
                    teacher=teacher,
                    method=method,
                    settings=settings,
                    seed=1,
                    report=report,
                )
            )
        losses = [point["loss"] for point in points]
        assert len(losses) == 3 and bool(watch.rollouts) != offline
        assert losses == pytest.approx(expected, rel=1e-2 if rounded else 1e-4), method
        check_weights(method, before, trained)
        seen[method] = {
            "trained": {n: str(w.dtype) for n, w in trained.named_parameters() if w.requires_grad},
            "optimisation": watch.optimisation(),
            "learning_rate": [point["learning_rate"] for point in points],
            "training": {type(module).__name__ for module in trained.modules() if module.training},
        }
        assert written_config(trained, tmp_path / f"after-{method}") == config, method
        # The same weights are scored the same after a training.
        for weights_name, weights in trained.named_parameters():
            if weights.requires_grad:
                weights.copy_(before.get(name_in_model(weights_name), torch.zeros_like(weights)))
        assert torch.equal(trained.eval()(probe).logits, scored), method
        # What was cut short ends with no end token, by right.
        most = {"seqkd": 8, "gkd": settings.max_new_tokens}.get(method)
        answers = [s.completion for s in (watch.rollouts or sequences) if s.completion is not None]
        ends = {answer[-1] for answer in answers if len(answer) != most}
        assert ends <= set(end_token_ids(trained, data.tokenizer)), (method, ends)
    first = seen[METHODS[0]]
    assert all(found == first for found in seen.values()), seen


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "architecture",
    ["qwen2", "granite", *(pytest.param(a, marks=pytest.mark.soak) for a in ("gemma2", "gpt2"))],
)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    architecture: str,
    precision: str,
    stored: bool,
    lmbda: float,
    resources: Resources,
    tmp_path: Path,
) -> None:
    """Both read in one precision, whether the teacher reads now or has read before."""
    path = make_tiny(tmp_path / "model", architecture, spread=2.0, tie_word_embeddings=False)
    inputs = make_study_inputs(
        tmp_path,
        teacher=ModelConfig(model=path),
        student=StudentConfig(model=path),
        data=DataConfig(train=DatasetConfig(path="builtin/addition", limit=ROWS)),
        teacher_states_gib=1 if stored else 0,
    )
    points: list[dict[str, float]] = []
    data = read_training_data(inputs)
    job = TrainingJob(
        data=data,
        resources=resources,
        model=starting_student(data, resources),
        teacher=ModelConfig(model=path),
        method="gkd",
        settings=MethodSettings(
            max_steps=1,
            per_device_train_batch_size=ROWS,
            max_length=400,
            max_new_tokens=6,
            lmbda=lmbda,
            logging_steps=1,
            bf16=precision == "bfloat16",
        ),
        seed=1,
        report=lambda step, total, metrics: points.append(metrics),
    )
    distil(job)
    assert abs(points[0]["loss"]) < 1e-9 and points[0]["grad_norm"] < 1e-6


class WithoutKwargs(Qwen2ForCausalLM):  # type: ignore[misc]
    """A model whose forward pass takes no further arguments, as some models' own code has it."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> Any:
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=return_dict,
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_window_of_micro_batches_is_one_batch(
    method: Method, resources: Resources, tmp_path: Path
) -> None:
    """The loss is a mean over all tokens of a window, for any signature of the forward pass."""
    path = make_tiny(tmp_path / "student", seed=1, spread=2.0)
    teacher = ModelConfig(model=make_tiny(tmp_path / "teacher", seed=2, spread=2.0))
    inputs = make_study_inputs(
        tmp_path,
        teacher=teacher,
        student=StudentConfig(model=path),
        data=DataConfig(train=DatasetConfig(path="builtin/addition", limit=ROWS)),
        teacher_outputs=TeacherOutputsConfig(max_new_tokens=8),
    )
    data = read_training_data(inputs)
    losses = []
    for size, accumulated in ((ROWS, 1), (1, ROWS)):
        for kind in (Qwen2ForCausalLM, WithoutKwargs):
            settings = MethodSettings(
                max_steps=2,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulated,
                length_bucketing=False,
                learning_rate=1e-3,
                lmbda=0.0,
                max_length=400,
                logging_steps=1,
            )
            points: list[dict[str, float]] = []
            job = TrainingJob(
                data=data,
                resources=resources,
                model=kind.from_pretrained(path, dtype=torch.float32),
                teacher=teacher,
                method=method,
                settings=effective(method, settings),
                seed=1,
                report=lambda step, total, metrics, points=points: points.append(metrics),
            )
            distil(job)
            losses.append([point["loss"] for point in points])
    assert losses == [pytest.approx(losses[0], rel=1e-4)] * 4
