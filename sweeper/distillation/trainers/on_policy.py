"""Trainer for generalized knowledge distillation, with the fixes that the package lists."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from trl.models.utils import _ForwardRedirection

from sweeper.config.settings import MethodSettings
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.batches import IGNORED, PromptCollator
from sweeper.distillation.distributed import ProcessGroup
from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.loading import store_for_autocast
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.sharding import ShardedStudent, shard_teacher
from sweeper.distillation.teacher.hidden_states import TeacherStates
from sweeper.distillation.trainers.base import (
    FullBatchTrainerMixin,
    MeteredTrainerMixin,
    forget_rounded_weights,
)
from sweeper.distillation.trainers.trl_gkd import GKDTrainer
from sweeper.records.seeds import on_policy_seed, rollout_seed


class OnPolicyTrainer(FullBatchTrainerMixin, GKDTrainer):  # type: ignore[misc]
    """TRL's ``GKDTrainer`` with the fixes that the package lists.

    Args:
        meter: Counter of tokens and seconds.
        processes: Processes that train together.
        settings: Settings of the method.
        end_ids: Tokens that end a rollout.
        seed: Seed of the on-policy coin and of the rollouts.
        lengths: Lengths of all rows, in tokens; None to take rows as they come.
        teacher_states: Stored states of the teacher on the dataset's rows, if there are any.
        sharded_student: Model, where it is divided among the processes.
        teacher_is_sharded: True to divide the teacher among the processes.
        **kwargs: Arguments of ``GKDTrainer``, with a dataset from ``batches.rows``.
    """

    def __init__(
        self,
        *,
        meter: CostMeter,
        processes: ProcessGroup,
        settings: MethodSettings,
        end_ids: Sequence[int],
        seed: int,
        lengths: Sequence[int] | None,
        teacher_states: TeacherStates | None,
        sharded_student: ShardedStudent | None,
        teacher_is_sharded: bool,
        **kwargs: Any,
    ) -> None:
        self.meter = meter
        self.processes = processes
        self.lengths = lengths
        self._teacher_states = teacher_states
        self._heads: Heads | None = None
        self._redirect = _ForwardRedirection()
        self._settings = settings
        self._end_ids = list(end_ids)
        self._seed = seed
        self._collator = PromptCollator(kwargs["processing_class"].pad_token_id)
        super().__init__(data_collator=self._collator, **kwargs)
        lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            self.accelerator.mixed_precision
        )
        if lower is not None:
            store_for_autocast(self.teacher_model, lower)
        self._sharded_student = sharded_student
        if sharded_student is not None:
            forget_rounded_weights(self)
        self._teacher_is_sharded = teacher_is_sharded
        if teacher_is_sharded:
            shard_teacher(self.teacher_model)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Return the micro-batches of one accumulation window, with rollouts in some of them.

        A coin with probability ``lmbda`` decides whether a micro-batch is on-policy. The loss is
        divided by the tokens that it is taken over, counted after the rollouts are in place.
        """
        # Past the mixin, which would count the references that a rollout replaces.
        batches, stock_items = super(MeteredTrainerMixin, self).get_batch_samples(
            epoch_iterator, num_batches, device
        )
        window = self.state.global_step
        coin = random.Random(on_policy_seed(self._seed, window))
        # Counts the micro-batches of all processes: accelerate deals them out in turn.
        count = len(batches) * self.processes.size
        on_policy = [coin.random() < self._settings.lmbda for _ in range(count)]
        counts = None
        if any(on_policy):
            with self.meter.timing("rollout"):
                counts = self._roll_out(batches, on_policy, window)
        for index, batch in enumerate(batches):
            together = on_policy[index * self.processes.size : (index + 1) * self.processes.size]
            batch["all_stored"] = not any(together)
        self._count(batches, counts)
        if self._settings.stock_normalization:
            return batches, stock_items
        return batches, self._get_num_items_in_batch(batches, device)

    def _roll_out(
        self, batches: list[dict[str, Any]], on_policy: Sequence[bool], window: int
    ) -> dict[str, float]:
        """Replace references by rollouts in this process's share of the ``on_policy`` batches."""
        rank, size = self.processes.rank, self.processes.size
        chosen = [index for index in range(rank, len(on_policy), size) if on_policy[index]]
        prompts: list[list[int]] = []
        numbers: list[int] = []
        for index in chosen:
            batch_prompts = batches[index // size]["prompts"]
            first = sum(on_policy[:index]) * self.args.train_batch_size
            prompts += batch_prompts
            numbers += range(first, first + len(batch_prompts))
        # Within one autocast the weights are rounded once, not for every token.
        with self.accelerator.autocast(AutocastKwargs()):
            rollouts = generate(
                self._whole_student(),
                prompts,
                temperature=self._settings.temperature,
                max_new_tokens=self._settings.max_new_tokens,
                end_ids=self._end_ids,
                pad_id=self.processing_class.pad_token_id,
                seed=rollout_seed(self._seed, window),
                batch_size=self._settings.rollout_batch_size or len(prompts),
                numbers=numbers,
            )
        answers = iter(rollouts)
        for index in chosen:
            batch = batches[index // size]
            pairs = [(prompt, next(answers).tokens) for prompt in batch["prompts"]]
            # A rollout is no row of the dataset.
            batch.update(self._collator.pad(pairs), indices=None)
        return {
            "on_policy": len(chosen),
            "rollouts": len(rollouts),
            "generated_tokens": sum(len(rollout.tokens) for rollout in rollouts),
            "truncated": sum(not rollout.finished for rollout in rollouts),
        }

    def _one_step(self, *args: Any, **kwargs: Any) -> Any:
        # Past GKDTrainer, whose step would sample again, to the step that only trains.
        return super(GKDTrainer, self).training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the generalized Jensen–Shannon divergence, summed over the answers' tokens.

        Eq. (1) of https://arxiv.org/abs/2306.13649, on the positions that count only. Sequences are
        padded on their right, where causal attention does not look, so no mask is needed.
        """
        bare = self.accelerator.unwrap_model(model)
        tokens = {"input_ids": inputs["input_ids"]}
        # The logits at a position predict the token after it.
        counted = inputs["labels"][:, 1:] != IGNORED
        if self._heads is None:
            with self.accelerator.autocast():
                self._heads = Heads.of(self._whole_student(), self.teacher_model).reading(bare)
        # Accelerate puts autocast around the whole model's forward, which is not what runs here.
        with self.accelerator.autocast():
            with self.meter.timing("teacher"), torch.no_grad():
                self.teacher_model.eval()
                theirs = self._read_teacher(self._heads, inputs, tokens, counted)
            wrapped = bare is not model
            divided = self._sharded_student is not None and self._heads.student.head is not None
            if wrapped or divided:
                # Only the wrapper's forward sums gradients over processes, and only there a divided
                # student has its head in one piece.
                total = self._redirect(model, bare, self._diverge, tokens, counted, theirs)
            else:
                total = self._diverge(tokens, counted, theirs)
        if num_items_in_batch is None:
            num_items_in_batch = counted.sum()
        # Tokens are those of all processes; the wrapper averages their gradients.
        loss = total / num_items_in_batch * self.processes.size
        return (loss, {}) if return_outputs else loss

    def _whole_student(self) -> Any:
        """Return the student in one piece, whose parts may be called alone."""
        if self._sharded_student is not None:
            return self._sharded_student.assemble()
        return self.accelerator.unwrap_model(self.model)

    def _diverge(
        self, tokens: dict[str, torch.Tensor], counted: torch.Tensor, theirs: torch.Tensor
    ) -> torch.Tensor:
        """Return the divergence of the student from the teacher's states, summed over positions."""
        assert self._heads is not None
        ours = self._heads.student.states(tokens, counted)
        return self._heads.divergence(ours, theirs, self._settings.beta)

    def _read_teacher(
        self, heads: Heads, inputs: dict[str, Any], tokens: Any, counted: torch.Tensor
    ) -> torch.Tensor:
        """Return the teacher's states: stored ones where there are any."""
        stored, indices = self._teacher_states, inputs["indices"]
        # A divided teacher reads in all processes, or in none.
        some_read = self._teacher_is_sharded and not inputs["all_stored"]
        if stored is None or indices is None or some_read:
            return heads.teacher.states(tokens, counted)
        return stored.of(indices).to(counted.device)
