"""Trainer of every arm: arms differ in their sequences and their loss, and in nothing else.

It is transformers' ``Trainer`` and nothing of TRL's, so no side effect of one method's trainer
(casts, auxiliary losses, changed configurations) can set its arm apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from torch import Tensor
from transformers import Trainer

from sweeper.distillation.chunked_loss import chunk_budget
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.batches import (
    IGNORED,
    EndlessPermutations,
    LengthBuckets,
    PromptCollator,
    sent,
)
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.distributed import ProcessGroup
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.wide_products import WideProducts, multiplies_slowly
from sweeper.distillation.sampling.engines import Engine
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.distillation.sharding import ShardedStudent, assembled
from sweeper.distillation.trainers.base import MeteredTrainerMixin
from sweeper.distillation.trainers.callbacks import EndOfStep, OwnForward
from sweeper.distillation.trainers.losses import Reading, TokenLoss
from sweeper.records.seeds import on_policy_seed, rollout_seed


@dataclass(frozen=True)
class Sampling:
    """How rollouts take the place of the data's answers.

    Attributes:
        lmbda: Probability that a micro-batch is on-policy.
        temperature: Of sampling.
        max_new_tokens: Longest rollout.
        batch_size: Rollouts sampled at a time; None for all of an accumulation window.
        end_ids: Tokens that end a rollout.
        seed: Seed of the on-policy coin and of the rollouts.
    """

    lmbda: float
    temperature: float
    max_new_tokens: int
    batch_size: int | None
    end_ids: tuple[int, ...]
    seed: int


class Distiller(MeteredTrainerMixin, Trainer):  # type: ignore[misc]
    """Trains a student on full batches by one loss.

    Args:
        meter: Counts tokens and seconds.
        processes: The processes that train together.
        loss: The arm's loss.
        sampling: How rollouts are sampled; None for an arm without them.
        engine: What samples them.
        lengths: Lengths of all rows, in tokens; None to take rows as they come.
        sharded_student: The model, where it is divided among the processes.
        count_references: Divide by the tokens of the answers that rollouts replace, as TRL's
            ``GKDTrainer`` does.
        **kwargs: As ``Trainer``'s. The dataset is ``batches.Rows``.
    """

    loss_is_scaled_for_ga = True
    """``compute_loss`` divides by the tokens of the whole accumulation window."""

    def __init__(
        self,
        *,
        meter: CostMeter,
        processes: ProcessGroup,
        loss: TokenLoss,
        sampling: Sampling | None,
        engine: Engine,
        lengths: Sequence[int] | None,
        sharded_student: ShardedStudent | None,
        count_references: bool,
        **kwargs: Any,
    ) -> None:
        self.meter = meter
        self.processes = processes
        self._loss = loss
        self._sampling = sampling
        self._engine = engine
        self._lengths = lengths
        self._sharded_student = sharded_student
        self._count_references = count_references
        self._head: LMHead | None = None
        self._budget: int | None = None
        arguments = kwargs["args"]
        slow = multiplies_slowly(arguments.device.type, autocast_dtype(arguments))
        self._products = WideProducts() if slow else None
        self._rolled_out = False
        self._unread: list[Reading] = []
        self._collator = PromptCollator(kwargs["processing_class"].pad_token_id)
        super().__init__(data_collator=self._collator, **kwargs)
        self.add_callback(OwnForward())
        self.add_callback(EndOfStep(self._end_step))
        if sharded_student is not None:
            # Autocast must not keep the weights that it rounds: they are whole for a moment only.
            self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the student."""
        with self._products.of(self.model) if self._products else nullcontext():
            return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args = self.args
        rows = len(self.train_dataset if train_dataset is None else train_dataset)
        window = args.train_batch_size * args.gradient_accumulation_steps * self.processes.size
        order = EndlessPermutations(rows, args.max_steps * window, args.data_seed)
        if self._lengths is None:
            return order
        return LengthBuckets(order, self._lengths, args.train_batch_size, args.data_seed)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Return the micro-batches of one accumulation window, and the tokens of all processes'.

        Rollouts take the place of the answers of on-policy micro-batches, which a coin with
        probability ``lmbda`` chooses. Tokens are counted after the rollouts are in place.
        """
        # Past MeteredTrainerMixin, which would count the references that a rollout replaces.
        batches, _ = super(MeteredTrainerMixin, self).get_batch_samples(
            epoch_iterator, num_batches, device
        )
        references = self._tokens(batches)
        counts = self._sample(batches) if self._sampling is not None else None
        self._rolled_out = counts is not None
        self._count(batches, counts or {})
        self._loss.expect(batches)
        return batches, references if self._count_references else self._tokens(batches)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> None:
        """Leave the count of tokens to ``get_batch_samples``, which needs no device for it."""

    def _tokens(self, batches: Sequence[dict[str, Any]]) -> float:
        """Return the number of trained tokens of all processes' micro-batches."""
        tokens = sum(batch["rows"].predicted for batch in batches)
        return self.processes.add_up({"tokens": float(tokens)})["tokens"]

    def _count(self, batches: Sequence[dict[str, Any]], rollouts: Mapping[str, float]) -> None:
        """Add the micro-batches and their trained tokens, over all processes, to the meter."""
        counts = {
            "micro_batches": float(len(batches)),
            "trained_tokens": float(sum(batch["rows"].trained for batch in batches)),
            **rollouts,
        }
        for name, amount in self.processes.add_up(counts).items():
            self.meter.add(name, amount)

    def _sample(self, batches: list[dict[str, Any]]) -> dict[str, float] | None:
        """Put rollouts into the on-policy micro-batches of one window, and return their counts."""
        assert self._sampling is not None
        window = self.state.global_step
        coin = random.Random(on_policy_seed(self._sampling.seed, window))
        # Of the micro-batches of all processes, to which accelerate deals them out in turn.
        count = len(batches) * self.processes.size
        on_policy = [coin.random() < self._sampling.lmbda for _ in range(count)]
        for index, batch in enumerate(batches):
            peers = on_policy[index * self.processes.size : (index + 1) * self.processes.size]
            batch["all_stored"] = not any(peers)
        if not any(on_policy):
            return None
        with self.meter.timing("rollout"):
            return self._roll_out(self._sampling, batches, on_policy, window)

    def _roll_out(
        self,
        sampling: Sampling,
        batches: list[dict[str, Any]],
        on_policy: Sequence[bool],
        window: int,
    ) -> dict[str, float]:
        rank, size = self.processes.rank, self.processes.size
        chosen = [index for index in range(rank, len(on_policy), size) if on_policy[index]]
        prompts: list[list[int]] = []
        numbers: list[int] = []
        for index in chosen:
            rows = batches[index // size]["rows"].sequences
            first = sum(on_policy[:index]) * self.args.train_batch_size
            prompts += (list(row.prompt) for row in rows)
            numbers += range(first, first + len(rows))
        # Within one autocast the weights are rounded once, not for every token.
        keeping = self._products.keeping_weights() if self._products else nullcontext()
        with self.accelerator.autocast(AutocastKwargs()), keeping:
            rollouts = self._engine(
                self._sampled_student(),
                prompts,
                temperature=sampling.temperature,
                max_new_tokens=sampling.max_new_tokens,
                end_ids=list(sampling.end_ids),
                pad_id=self.processing_class.pad_token_id,
                seed=rollout_seed(sampling.seed, window),
                batch_size=sampling.batch_size or len(prompts),
                numbers=numbers,
            )
        answers = iter(rollouts)
        for index in chosen:
            batch = batches[index // size]
            rows = batch["rows"].sequences
            sampled = [next(answers) for _ in rows]
            made = [
                TokenSequence(row.prompt, rollout.tokens)
                for row, rollout in zip(rows, sampled, strict=True)
            ]
            # No rows of the dataset any more.
            replaced = self._collator.batch(made, None)
            replaced |= _reported(sampled, replaced["labels"])
            for name, value in replaced.items():
                batch[name] = sent(value, self.args.device) if torch.is_tensor(value) else value
        repeated = [share for each in rollouts if (share := each.repetition()) is not None]
        return {
            "on_policy": len(chosen),
            "rollouts": len(rollouts),
            "generated_tokens": sum(len(rollout.tokens) for rollout in rollouts),
            "truncated": sum(not rollout.finished for rollout in rollouts),
            "ended": sum(rollout.finished for rollout in rollouts),
            "repetition": sum(repeated),
            "with_repetition": len(repeated),
            "with_logprobs": sum(len(rollout.log_probs or ()) for rollout in rollouts),
        }

    def _end_step(self, read: bool) -> None:
        """Keep what the loss saw of this step's rollouts, and ``read`` what was kept."""
        if self._rolled_out:
            self._unread.append(self._loss.observed())
        if read:
            self._count_observed()

    def _count_observed(self) -> None:
        """Add what the loss saw of rollouts, in all processes, to the meter."""
        steps = [read() for read in self._unread]
        self._unread.clear()
        # The coin is the same in all processes, so all of them are here, or none.
        for observed in chain.from_iterable(zip(*self.processes.gather(steps), strict=True)):
            for name, amount in observed.sums.items():
                self.meter.add(name, amount)
            for name, value in observed.largest.items():
                self.meter.raise_to(name, value)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._count_observed()
        super()._save_checkpoint(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the arm's loss over the answers' tokens, divided by those of the whole window.

        Sequences are padded on their right, where causal attention does not look, so no mask is
        needed.
        """
        bare = self.accelerator.unwrap_model(model)
        tokens = {"input_ids": inputs["input_ids"]}
        positions = inputs["positions"]
        # Accelerate puts autocast around the whole model's forward, which is not what runs here.
        with self.accelerator.autocast():
            if self._head is None:
                self._head = LMHead.of(self._whole_student(), trained=True).of_copy(bare)
            targets = self._loss.targets(inputs)
            wrapped = bare is not model
            divided = self._sharded_student is not None and self._head.head is not None
            if wrapped or divided:
                # Gradients are added up over processes only of what passes the wrapper's forward;
                # what is divided has its head in one piece only there.
                total = _call_within(model, bare, self._total, tokens, positions, targets)
            else:
                total = self._total(tokens, positions, targets)
        # Of all processes' tokens; the wrapper takes the mean of their gradients, not the sum.
        loss = total / num_items_in_batch * self.processes.size
        return (loss, {}) if return_outputs else loss

    def _total(self, tokens: dict[str, Tensor], positions: Tensor, targets: Any) -> Tensor:
        assert self._head is not None
        states = self._head.states(tokens, positions)
        if self._budget is None:
            # Once in a training, so that later chunks do not depend on what else is in memory.
            self._budget = chunk_budget(states.device, self._coming_bytes())
        return self._loss.total(states, self._head, targets, self._budget)

    def _coming_bytes(self) -> int:
        """Return the bytes of the gradients and of AdamW's two states that are not there yet."""
        states = self.optimizer.state if self.optimizer is not None else {}
        trained = (weights for weights in self.model.parameters() if weights.requires_grad)
        return sum(
            getattr(weights, "_local_tensor", weights).nbytes
            * ((weights.grad is None) + 2 * (not states.get(weights)))
            for weights in trained
        )

    def _sampled_student(self) -> Any:
        """Return the student that rollouts are sampled from, under autocast."""
        on_gpu = self.args.device.type == "cuda"
        if self._sharded_student is None or not on_gpu:
            return self._whole_student()
        return self._sharded_student.assemble(autocast=autocast_dtype(self.args))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of the whole gradient, which older torch (2.9) reads as its part's."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return assembled(norm) if isinstance(norm, Tensor) else norm

    def _whole_student(self) -> Any:
        """Return the student, every part of which may be called by itself."""
        if self._sharded_student is not None:
            return self._sharded_student.assemble()
        return self.accelerator.unwrap_model(self.model)


def _reported(rollouts: Sequence[Rollout], labels: Tensor) -> dict[str, Any]:
    """Return the log-probabilities that an engine reported, at the places of the labels.

    Engines report those of all rollouts, or of none.
    """
    reported = [rollout.log_probs for rollout in rollouts]
    if any(each is None for each in reported):
        return {}
    values = [value for each in reported for value in each or ()]
    log_probs = torch.zeros(labels.shape)
    log_probs[labels != IGNORED] = torch.tensor(values)
    return {"log_probs": log_probs, "log_probs_at": rollouts[0].log_probs_at}


def _call_within(wrapper: Any, module: Any, compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """Call ``compute`` where ``wrapper`` would call the forward pass of ``module``, its own model.

    ``DistributedDataParallel`` and ``fully_shard`` do their work around that call.
    """
    own = vars(module).get("forward")

    def restore() -> None:
        del module.forward
        if own is not None:
            module.forward = own

    def forward(*args: Any) -> Tensor:
        restore()
        return compute(*args)

    module.forward = forward
    try:
        result: Tensor = wrapper(*args)
    finally:
        if vars(module).get("forward") is forward:  # the wrapper failed before it came here
            restore()
    return result


def autocast_dtype(args: Any) -> torch.dtype | None:
    """Return the precision that autocast computes in under some training arguments, if it is on."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else None
