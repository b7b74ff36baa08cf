"""TRL's trainers, mended where the stock ones confound a comparison.

This is the only module that imports TRL. What differs from the stock ``GKDTrainer``:

- **The on-policy loss is divided by the tokens it is taken over.** Stock divides by the token count
  of the *reference* answers, counted before a rollout replaces them, so the effective learning rate
  moves with ``max_new_tokens`` and ``lmbda``. ``stock_normalization: true`` restores that.
- **Rollouts keep their key-value cache**, also with gradient checkpointing, and are sampled once
  per accumulation window: the weights do not change within it.
- **Rollouts come from the student's own distribution**: settings that the model's publisher put
  into its generation configuration (top-k, repetition penalties) are set aside, and the chat
  template's end-of-turn token ends an answer.
- **Sequences are right-padded** in the training forward, so positions are right for models that
  learn them.
- **``seq_kd`` uses answers that the teacher gave once**, instead of sampling new ones each step.
- **Every batch is full**: epochs follow each other without a smaller batch at their ends.
- **Batches hold sequences of similar length** (``length_bucketing: false`` turns that off).
- **Only positions that count** go through the heads and the divergence, a chunk at a time.
- **The teacher reads sequences that do not change once**: its last hidden states are stored.
- **All draws have their own seed**: data order, on-policy coin and rollouts do not disturb
  each other.
- **Several processes train as one does on the same sequences.** Stock divides the sum over the
  tokens of all processes' batches once more by the number of processes.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from trl import SFTConfig, SFTTrainer
from trl.models.utils import _ForwardRedirection
from trl.trainer.utils import disable_dropout_in_model

from sweeper.config.settings import Method, MethodSettings
from sweeper.distillation.batches import (
    IGNORED,
    EndlessPermutations,
    LengthBuckets,
    PromptCollator,
)
from sweeper.distillation.checkpoints import Checkpoints
from sweeper.distillation.divergence import Heads
from sweeper.distillation.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.meter import Meter
from sweeper.distillation.models import store_for_autocast
from sweeper.distillation.ranks import ALONE, Ranks
from sweeper.distillation.rollouts import generate
from sweeper.distillation.sharding import ShardedStudent, shard_teacher
from sweeper.distillation.teacher_states import TeacherStates
from sweeper.errors import BadInputError
from sweeper.records import derive_seed

with warnings.catch_warnings():
    # TRL announces that GKD is experimental; its version is pinned for that reason.
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDConfig, GKDTrainer


class _Metered:
    """Counts the tokens that a trainer's loss is taken over, and its time.

    Attributes:
        meter: Takes the counts.
        ranks: The processes that train together; counts are of all of them.
        checkpoints: Saves and loads the training's state in place of transformers, if there are
            any.
    """

    meter: Meter
    ranks: Ranks = ALONE
    checkpoints: Checkpoints | None = None

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        assert self.checkpoints is not None
        self.checkpoints.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self.checkpoints is not None
        self.checkpoints.load_weights(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            assert self.checkpoints is not None
            self.checkpoints.load_optimiser(Path(checkpoint))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of one accumulation window, counted."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self._count(batches)
        return batches, items

    def _count(
        self, batches: list[dict[str, Any]], rollouts: Mapping[str, float] | None = None
    ) -> None:
        labels = [batch["labels"] for batch in batches if "labels" in batch]
        counts = {
            "micro_batches": float(len(batches)),
            "trained_tokens": float(sum(int((each != IGNORED).sum()) for each in labels)),
            **(rollouts or {}),
        }
        for name, amount in self.ranks.add_up(counts).items():
            self.meter.add(name, amount)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Forward and backward of one micro-batch, timed."""
        before = self._seconds_elsewhere()
        started = self.meter.now()
        loss = self._one_step(*args, **kwargs)
        elsewhere = self._seconds_elsewhere() - before
        self.meter.add("seconds_student", self.meter.now() - started - elsewhere)
        return loss

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        # Until the end of a window, transformers would keep the gradients whole.
        return nullcontext()

    def _seconds_elsewhere(self) -> float:
        totals = self.meter.totals
        return totals["seconds_teacher"] + totals["seconds_rollout"]

    def _one_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(*args, **kwargs)  # type: ignore[misc]


class _FullBatches(_Metered):
    """Trains on full batches, of rows of similar length if lengths are given.

    Attributes:
        lengths: Of all rows, in tokens; None to take rows as they come.
    """

    lengths: Sequence[int] | None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args = self.args  # type: ignore[attr-defined]
        rows = len(train_dataset if train_dataset is not None else self.train_dataset)  # type: ignore[attr-defined]
        window = args.train_batch_size * args.gradient_accumulation_steps * self.ranks.size
        order = EndlessPermutations(rows, args.max_steps * window, args.data_seed)
        if self.lengths is None:
            return order
        return LengthBuckets(order, self.lengths, args.train_batch_size, args.data_seed)


class OfflineTrainer(_FullBatches, SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` on sequences that are already token ids; its loss is cross-entropy."""

    def __init__(
        self,
        *,
        meter: Meter,
        ranks: Ranks,
        lengths: Sequence[int] | None,
        sharded_student: ShardedStudent | None,
        **kwargs: Any,
    ) -> None:
        self.meter = meter
        self.ranks = ranks
        self.lengths = lengths
        super().__init__(**kwargs)
        if sharded_student is not None:
            _forget_rounded_weights(self)


class StockSFTTrainer(_Metered, SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` as it is, on text; only counted."""

    def __init__(self, *, meter: Meter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)


class StockGKDTrainer(_Metered, GKDTrainer):  # type: ignore[misc]
    """TRL's ``GKDTrainer`` as it is, on chat messages; only counted."""

    def __init__(self, *, meter: Meter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)

    def generate_on_policy_outputs(self, model: Any, inputs: Any, generation_config: Any) -> Any:
        """The stock rollout, counted."""
        with self.meter.timing("rollout"):
            result = GKDTrainer.generate_on_policy_outputs(model, inputs, generation_config)
        sampled = int((result[2] != IGNORED).sum())
        if model is not self.teacher_model:
            self.meter.add("on_policy", 1)
            self.meter.add("rollouts", len(result[2]))
            self.meter.add("generated_tokens", sampled)
        # The reference that this rollout replaces has been counted as trained on.
        self.meter.add("trained_tokens", sampled - int((inputs["labels"] != IGNORED).sum()))
        return result


class OnPolicyTrainer(_FullBatches, GKDTrainer):  # type: ignore[misc]
    """Generalized knowledge distillation with the mends that the module's docstring lists.

    Args:
        meter: Counts tokens and seconds.
        ranks: The processes that train together.
        settings: Of the method.
        end_ids: Tokens that end a rollout.
        seed: Of the on-policy coin and of the rollouts.
        lengths: Of all rows, in tokens; None to take rows as they come.
        teacher_states: The teacher's on the rows of the dataset, where they are stored.
        sharded_student: The model, where it is divided among the processes.
        divide_teacher: Divide the teacher among them.
        **kwargs: As ``GKDTrainer``'s. The dataset is one of ``batches.rows``.
    """

    def __init__(
        self,
        *,
        meter: Meter,
        ranks: Ranks,
        settings: MethodSettings,
        end_ids: Sequence[int],
        seed: int,
        lengths: Sequence[int] | None,
        teacher_states: TeacherStates | None,
        sharded_student: ShardedStudent | None = None,
        divide_teacher: bool = False,
        **kwargs: Any,
    ) -> None:
        self.meter = meter
        self.ranks = ranks
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
            _forget_rounded_weights(self)
        self._teacher_is_divided = divide_teacher
        if divide_teacher:
            shard_teacher(self.teacher_model)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of one accumulation window, with rollouts in place of references.

        Whether a micro-batch is on-policy is a coin with probability ``lmbda``. The loss is divided
        by the tokens that it is taken over, counted after the rollouts are in place.
        """
        # Past _Metered, which would count the references that a rollout replaces.
        batches, stock_items = super(_Metered, self).get_batch_samples(
            epoch_iterator, num_batches, device
        )
        window = self.state.global_step
        coin = random.Random(derive_seed(self._seed, "coin", window))
        # Of the micro-batches of all processes, to which accelerate deals them out in turn.
        count = len(batches) * self.ranks.size
        on_policy = [coin.random() < self._settings.lmbda for _ in range(count)]
        counts = None
        if any(on_policy):
            with self.meter.timing("rollout"):
                counts = self._roll_out(batches, on_policy, window)
        for index, batch in enumerate(batches):
            beside = on_policy[index * self.ranks.size : (index + 1) * self.ranks.size]
            batch["all_stored"] = not any(beside)
        self._count(batches, counts)
        if self._settings.stock_normalization:
            return batches, stock_items
        return batches, self._get_num_items_in_batch(batches, device)

    def _roll_out(
        self, batches: list[dict[str, Any]], on_policy: Sequence[bool], window: int
    ) -> dict[str, float]:
        """Put rollouts into this process's batches, those of all of which ``on_policy`` says it."""
        rank, size = self.ranks.rank, self.ranks.size
        chosen = [index for index in range(rank, len(on_policy), size) if on_policy[index]]
        prompts: list[list[int]] = []
        numbers: list[int] = []
        for index in chosen:
            found = batches[index // size]["prompts"]
            first = sum(on_policy[:index]) * self.args.train_batch_size
            prompts += found
            numbers += range(first, first + len(found))
        # Within one autocast the weights are rounded once, not for every token.
        with self.accelerator.autocast(AutocastKwargs()):
            rollouts = generate(
                self._whole_student(),
                prompts,
                temperature=self._settings.temperature,
                max_new_tokens=self._settings.max_new_tokens,
                end_ids=self._end_ids,
                pad_id=self.processing_class.pad_token_id,
                seed=derive_seed(self._seed, "rollout", window),
                batch_size=self._settings.rollout_batch_size or len(prompts),
                numbers=numbers,
            )
        answers = iter(rollouts)
        for index in chosen:
            batch = batches[index // size]
            pairs = [(prompt, next(answers).tokens) for prompt in batch["prompts"]]
            # No row of the dataset any more.
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
        """The generalized Jensen–Shannon divergence, summed over the answers' tokens.

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
            if not wrapped and not divided:
                total = self._diverge(tokens, counted, theirs)
            else:
                # Gradients are added up over processes only of what passes the wrapper's forward;
                # what is divided has its head in one piece only there.
                total = self._redirect(model, bare, self._diverge, tokens, counted, theirs)
        if num_items_in_batch is None:
            num_items_in_batch = counted.sum()
        # Of all processes' tokens; the wrapper takes the mean of their gradients, not the sum.
        loss = total / num_items_in_batch * self.ranks.size
        return (loss, {}) if return_outputs else loss

    def _whole_student(self) -> Any:
        """The student, which every part of may be called by itself."""
        if self._sharded_student is not None:
            return self._sharded_student.whole()
        return self.accelerator.unwrap_model(self.model)

    def _diverge(
        self, tokens: dict[str, torch.Tensor], counted: torch.Tensor, theirs: torch.Tensor
    ) -> torch.Tensor:
        assert self._heads is not None
        ours = self._heads.student.states(tokens, counted)
        return self._heads.divergence(ours, theirs, self._settings.beta)

    def _read_teacher(
        self, heads: Heads, inputs: dict[str, Any], tokens: Any, counted: torch.Tensor
    ) -> torch.Tensor:
        stored, indices = self._teacher_states, inputs["indices"]
        # A divided teacher reads in all processes, or in none.
        some_read = self._teacher_is_divided and not inputs["all_stored"]
        if stored is None or indices is None or some_read:
            return heads.teacher.states(tokens, counted)
        return stored.of(indices).to(counted.device)


def _forget_rounded_weights(trainer: Any) -> None:
    """Have autocast not keep the weights that it rounds: they are whole for a moment only."""
    trainer.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)


def uses_teacher(method: Method) -> bool:
    """Whether the method's loss compares with the teacher, token by token."""
    return method in ("gkd", "supervised_kd")


def without_dropout(model: Any) -> None:
    """Turn dropout off in place, an adapter's included."""
    disable_dropout_in_model(model)


def argument_names(method: Method) -> set[str]:
    """The arguments that the method's TRL configuration class takes: what ``extra`` may name."""
    return {item.name for item in fields(_config_class(method)) if item.init}


def _config_class(method: Method) -> Any:
    return GKDConfig if uses_teacher(method) else SFTConfig


def arguments(
    method: Method, settings: MethodSettings, *, output_dir: str, device: str, seed: int
) -> Any:
    """TRL's training arguments for ``settings``.

    Args:
        method: Decides the class: ``GKDConfig`` or ``SFTConfig``.
        settings: Of the trial.
        output_dir: Where the trainer may write.
        device: A torch device.
        seed: Of the data order and of dropout.

    Raises:
        BadInputError: The class refuses a value, or ``extra`` names an argument that sweeper sets.
    """
    kind = _config_class(method)
    if settings.optim != MethodSettings.model_fields["optim"].default:
        # Many of the others are its.
        import_bitsandbytes()
    values: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "max_steps",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "lr_scheduler_type",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "max_grad_norm",
            "optim",
            "max_length",
            "bf16",
            "fp16",
            "logging_steps",
        )
    }
    values.update(
        # Transformers' new name; the old one warns.
        activation_checkpointing=settings.gradient_checkpointing,
        # This version knows no warmup_ratio; a whole number of steps is unambiguous.
        warmup_steps=round(settings.warmup_ratio * settings.max_steps),
        output_dir=output_dir,
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        # A NaN must be seen, not averaged away.
        logging_nan_inf_filter=False,
        dataloader_pin_memory=device != "cpu",
        # Of all processes, of which each divides by the tokens of all.
        average_tokens_across_devices=True,
    )
    if uses_teacher(method):
        values.update(
            temperature=settings.temperature,
            lmbda=settings.lmbda,
            beta=settings.beta,
            max_new_tokens=settings.max_new_tokens,
            disable_dropout=settings.disable_dropout,
            seq_kd=settings.seq_kd,
        )
    if settings.engine == "sweeper":
        values["dataset_kwargs"] = {"skip_prepare_dataset": True}
    clash = sorted(set(settings.extra) & (set(values) | {"warmup_ratio", "gradient_checkpointing"}))
    if clash:
        raise BadInputError(f"training.extra names {clash[0]!r}, which is a setting of its own.")
    # Parameters all take part in each step, and buffers are equal: nothing to look for.
    copies = {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}
    try:
        return kind(**values, **{**copies, **settings.extra})
    except (TypeError, ValueError) as error:
        raise BadInputError(f"TRL's {kind.__name__} refuses the settings: {error}") from error
