"""A micro-batch makes no host wait for its device, whatever the arm.

The trainer, the losses, the collator and the models are the real ones. Their device is one on which
every read is an error, and the rollouts are given.
"""

from __future__ import annotations

import random
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sweeper.config.models import ModelConfig
from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation import trainers
from sweeper.distillation.cost_meter import CostMeter, MeterCallback
from sweeper.distillation.data import batches
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.distributed import ALONE
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import load_tokenizer
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.distillation.teacher.hidden_states import TeacherStates
from sweeper.distillation.teacher.served_judge import Judgement, Text
from tests.support.training_jobs import SETTINGS
from tests.support.unread_device import DEVICE, Copies, unread_device

WIDTH, VOCABULARY = 16, 40
MOST_COPIES = 14
"""Most copies to the device for a micro-batch: four tensors of its rows, four of its rollouts and
their log-probabilities, and what a server or a file tells of them."""

CASES: dict[str, tuple[Method, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "seqkd": ("seqkd", {}),
    **{
        f"supervised_kd, beta {beta}": ("supervised_kd", {"beta": beta}) for beta in (0.0, 0.5, 1.0)
    },
    "supervised_kd, stored": ("supervised_kd", {"beta": 0.5}),
    **{f"gkd, beta {beta}": ("gkd", {"lmbda": 1.0, "beta": beta}) for beta in (0.0, 0.1, 0.5, 1.0)},
    "gkd, data only": ("gkd", {"lmbda": 0.0, "beta": 0.5}),
    "gkd, top_k": ("gkd", {"lmbda": 1.0, "teacher_signal": "top_k", "teacher_top_k": 3}),
    "gkd, sampled": ("gkd", {"lmbda": 1.0, "teacher_signal": "sampled", "beta": 1.0}),
    "gkd, checkpointed": ("gkd", {"lmbda": 1.0, "beta": 0.5, "gradient_checkpointing": True}),
    "gkd, served": ("gkd", {"lmbda": 1.0, "teacher_signal": "top_k", "teacher_top_k": 3}),
    "gkd, served, sampled": ("gkd", {"lmbda": 1.0, "teacher_signal": "sampled", "beta": 1.0}),
}


def tiny() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    with DEVICE:
        return LlamaForCausalLM(config)


class Judge:
    """A served teacher that answers at once."""

    def ask(self, text: Text) -> Future[Judgement]:
        """Return what it reports: the same of every token."""
        count, asked = len(text.positions), Future[Judgement]()
        ids = torch.tensor([[3, 4, 5]], dtype=torch.int32).repeat(count, 1)
        asked.set_result(Judgement(ids, torch.full((count, 3), -2.0), torch.full((count,), -3.0)))
        return asked

    def result(self, future: Future[Judgement]) -> Judgement:
        return future.result()

    def take_seconds(self) -> float:
        return 0.0


def answer(model: Any, prompts: list[list[int]], **options: Any) -> list[Rollout]:
    """Rollouts of several lengths, with log-probabilities."""
    lengths = (2 + index % 3 for index in range(len(prompts)))
    return [Rollout((7,) * length, False, (-1.0,) * length) for length in lengths]


def make_trainer(case: str, rows: int, length: int, folder: Path) -> tuple[Any, CostMeter]:
    """The trainer of a case, on rows of some length."""
    method, changes = CASES[case]
    values = {**SETTINGS, "per_device_train_batch_size": rows, **changes}
    settings = effective(method, MethodSettings(**values))
    arguments = trainers.arguments(method, settings, output_dir=str(folder), device="cpu", seed=1)
    vars(arguments)["_setup_devices"] = DEVICE
    meter, student = CostMeter(), tiny()
    draw = random.Random(0)
    sequences = [
        TokenSequence((3,) * draw.randint(2, length), (5,) * draw.randint(1, length))
        for _ in range(4 * rows)
    ]
    loss: Any = trainers.ReferenceLoss()
    if "served" in case:
        loss = trainers.ServedTeacherLoss(
            Judge(), settings, stored=None, timing=meter.timing, used=lambda seconds: None
        )
    elif trainers.uses_teacher(method):
        stored = None
        if "stored" in case:
            starts = [0]
            for sequence in sequences:
                starts.append(starts[-1] + sequence.trained)
            stored = TeacherStates(torch.randn(starts[-1], WIDTH), tuple(starts))
        loss = trainers.TeacherLoss(
            tiny(), settings, stored=stored, sharded=False, autocast=None, timing=meter.timing
        )
    sampling = None
    if method == "gkd":
        sampling = trainers.Sampling(
            lmbda=settings.lmbda,
            temperature=1.0,
            max_new_tokens=8,
            batch_size=None,
            end_ids=(1,),
            seed=0,
        )
    trainer = trainers.Distiller(
        meter=meter,
        processes=ALONE,
        loss=loss,
        sampling=sampling,
        engine=answer,
        lengths=None,
        sharded_student=None,
        count_references=False,
        train_dataset=batches.Rows(sequences),
        model=student,
        args=arguments,
        processing_class=load_tokenizer(ModelConfig(model="builtin/adder-teacher")),
        callbacks=[MeterCallback(meter, lambda *_: None)],
    )
    trainer.accelerator.state.device = DEVICE
    return trainer, meter


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The check of a head reads, once in a training.
    def of(cls: type[LMHead], model: Any, *, trained: bool) -> LMHead:
        return cls(model, model.model, model.lm_head)

    monkeypatch.setattr(LMHead, "of", classmethod(of))
    with unread_device():
        yield


@pytest.mark.parametrize("case", CASES)
def test_an_optimiser_step_reads_nothing(case: str, tmp_path: Path) -> None:
    copies = []
    for rows, length in ((1, 3), (6, 12)):
        trainer, meter = make_trainer(case, rows, length, tmp_path)
        incoming = iter(trainer.get_train_dataloader())
        trainer.create_optimizer()
        for step in range(2):
            with Copies() as counted:
                [batch], tokens = trainer.get_batch_samples(incoming, 1, DEVICE)
                loss = trainer.training_step(trainer.model, batch, tokens)
            assert loss.device == DEVICE
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.state.global_step, trainer.state.max_steps = step + 1, 10
            trainer.control.should_log = False
            trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)
        assert meter.totals["trained_tokens"] > 0
        copies.append(counted.count)
    assert copies[0] == copies[1] <= MOST_COPIES


@pytest.mark.parametrize("case", ["gkd, beta 0.5", "gkd, served"])
def test_what_was_seen_of_rollouts_is_read_where_a_point_is_logged(
    case: str, tmp_path: Path
) -> None:
    trainer, _ = make_trainer(case, 2, 3, tmp_path)
    incoming = iter(trainer.get_train_dataloader())
    [batch], tokens = trainer.get_batch_samples(incoming, 1, DEVICE)
    trainer.training_step(trainer.model, batch, tokens)
    trainer.state.global_step, trainer.state.max_steps = 1, 10
    trainer.control.should_log = True
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)


def test_reads_are_errors_there() -> None:
    values = torch.zeros(2, device=DEVICE)
    for read in (
        lambda: values.tolist(),
        lambda: values[0].item(),
        lambda: bool(values.isfinite().all()),
        lambda: values[values > 0],
        lambda: values.cpu(),
    ):
        with pytest.raises((NotImplementedError, RuntimeError)):
            read()
    with Copies() as counted:
        torch.zeros(2).to(DEVICE)
        values + 1
    assert counted.count == 1
