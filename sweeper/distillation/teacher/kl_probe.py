"""Divergence of students from the teacher on text that no arm trains on, comparable between trials.

Training losses cannot be compared between trials, because each has its own divergence and its own
sequences. Here the sequences are fixed: the teacher's greedy answers to the first prompts of the
selection suite, cut short. So is the divergence: Jensen–Shannon (``beta`` 0.5), between 0 and ln 2
nats a token.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sweeper.config.base import ScoringDtype
from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import render_prompt
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import computing_threads
from sweeper.distillation.models.precision import computing_in
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.cache import Cache

BETA = 0.5
MOST = 8
"""Number of sequences: enough to tell trials apart, few enough to cost little."""
LONGEST = 32
"""Number of tokens of their answers, chosen likewise."""
_TENSORS, _ABOUT = "teacher.safetensors", "about.json"


@dataclass(frozen=True)
class KLProbe:
    """The fixed sequences, and the teacher's hidden states on them."""

    sequences: tuple[tuple[list[int], list[int]], ...]
    """Token ids of prompts and answers."""
    states: Tensor
    """The teacher's last hidden states at the positions that predict the answers."""
    head: nn.Linear
    """The teacher's head, from hidden states to logits: mapped from its file, and moved to the
    student's device only while it is used there."""
    scale: float
    """The factor of the teacher's logits."""
    cap: float | None
    """The teacher's final soft cap, if it has one."""
    dtype: ScoringDtype | None
    """Precision that teacher and students are read in; None: that of weights or of autocast."""
    _lent: list[weakref.ref[nn.Module]] = field(default_factory=list, compare=False)
    """The same head, where a training has the teacher."""

    def lend(self, head: Any) -> None:
        """Use the ``head`` of the study's teacher in place of a second one, while it is there.

        Anything else than a plain linear layer is left alone.
        """
        if type(head) is nn.Linear:
            self._lent[:] = [weakref.ref(head)]

    def _head_on(self, device: torch.device) -> nn.Linear:
        """Return the teacher's head, on the student's device."""
        weight, bias = self.head.weight, self.head.bias
        wanted = (device, weight.dtype, weight.shape)
        for lent in (reference() for reference in self._lent):
            if isinstance(lent, nn.Linear):
                given = lent.weight
                # A training may have rounded it for its own use.
                if (given.device, given.dtype, given.shape) == wanted:
                    return lent
        return _linear(weight.to(device), None if bias is None else bias.to(device))

    def divergence(self, model: Any, batch_size: int = MOST) -> float:
        """Return the mean divergence of ``model`` from the teacher, in nats a token.

        ``batch_size`` sequences are read at once.
        """
        device = next(model.parameters()).device
        training, total, done = model.training, 0.0, 0
        model.eval()
        try:
            with torch.no_grad(), computing_in(model, self.dtype):
                student = LMHead.of(model, trained=False)
                head = self._head_on(device)
                heads = Heads(student, LMHead(None, head=head, scale=self.scale, cap=self.cap))
                for start in range(0, len(self.sequences), batch_size):
                    batch = PromptCollator(0).pad(self.sequences[start : start + batch_size])
                    positions = counted_positions(batch["labels"])
                    ours = student.states({"input_ids": batch["input_ids"]}, positions)
                    theirs = self.states[done : done + len(ours)].to(device)
                    total += float(heads.divergence(ours, theirs, BETA))
                    done += len(ours)
        finally:
            model.train(training)
        return total / done


def prepare(data: TrainingData, teacher: SharedTeacher, prompts: Sequence[str]) -> Path:
    """Put the study's fixed sequences in the cache, and return the directory for ``read``.

    They begin with the first few different ``prompts``, which no arm trains on.
    """
    inputs, tokenizer = data.inputs, data.tokenizer
    texts = asked(data, prompts)
    longest, dtype = min(LONGEST, inputs.teacher_outputs.max_new_tokens), inputs.evaluation.dtype
    key = {**teacher.determinants(), "prompts": texts, **data.text_key, "max_new_tokens": longest}
    # Studies that declared no precision find their sequences again.
    key |= {"dtype": dtype} if dtype else {}

    @computing_threads(inputs.cache_threads)
    def build(directory: Path) -> None:
        model = teacher.load()
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        with computing_in(model, dtype):
            answers = generate(
                model,
                ids,
                temperature=0.0,
                max_new_tokens=longest,
                end_ids=end_token_ids(model, tokenizer),
                pad_id=int(tokenizer.pad_token_id),
                seed=0,
                batch_size=MOST,
            )
            sequences = [(prompt, list(a.tokens)) for prompt, a in zip(ids, answers, strict=True)]
            tensors, about = _read_teacher(model, sequences)
        save_file(tensors, directory / _TENSORS)
        about = about and {**about, "dtype": dtype}
        (directory / _ABOUT).write_text(json.dumps(about), encoding="utf-8")

    return Cache(Path(inputs.cache)).get_or_compute("held_out", key, build)


def asked(data: TrainingData, prompts: Iterable[str]) -> list[str]:
    """Return the first few different ``prompts`` as the student reads them."""
    system = data.inputs.data.system_prompt
    turns = [{"role": "system", "content": system}] if system else []
    return [
        render_prompt(Example((*turns, {"role": "user", "content": prompt}), None), data.tokenizer)
        for prompt in islice(dict.fromkeys(prompts), MOST)
    ]


def read(directory: Path) -> KLProbe | None:
    """Read what ``prepare`` left; None if it is gone, or the teacher has no plain linear head."""
    if not (directory / _ABOUT).is_file():
        return None
    about = json.loads((directory / _ABOUT).read_text(encoding="utf-8"))
    if about is None:
        return None
    tensors = load_file(directory / _TENSORS)
    head = _linear(tensors["weight"], tensors.get("bias"))
    sequences = tuple((prompt, answer) for prompt, answer in about["sequences"])
    end = about.get("scale", 1.0), about["cap"]
    return KLProbe(sequences, tensors["states"], head, *end, about.get("dtype"))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer of some weights, without a copy of them."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


@torch.no_grad()
def _read_teacher(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]]
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors and the description of a cache entry; no description without a head."""
    lm_head = LMHead.of(model, trained=False)
    if type(lm_head.head) is not nn.Linear:
        return {}, None
    batch = PromptCollator(0).pad(sequences)
    states = lm_head.states({"input_ids": batch["input_ids"]}, counted_positions(batch["labels"]))
    tensors = {"states": states, "weight": lm_head.head.weight}
    if lm_head.head.bias is not None:
        tensors["bias"] = lm_head.head.bias
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return tensors, {"sequences": list(sequences), "scale": lm_head.scale, "cap": lm_head.cap}
