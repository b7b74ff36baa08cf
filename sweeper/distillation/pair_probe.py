"""Diagnosis of a pair before it is trained: each model samples answers, and both read them.

Answers are sampled at temperature 1, the temperature of the losses, so that a model's
log-probability of its own answers is minus its entropy on average, and the difference to the other
model's is a divergence between them. One model is loaded at a time.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.answer_marks import AnswerMarks
from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.data.training_data import TrainingData, own_teacher
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.context_length import ends, positions
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.sampling.rollouts import Rollout, generate
from sweeper.distillation.start import starting_student
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.errors import BadInputError, DivergedError
from sweeper.records import (
    PairDiagnosis,
    PairRequest,
    ProbedPair,
    ProbedPrompt,
    Reading,
    Resources,
    SampledAnswer,
)
from sweeper.records.pair import QUARTERS
from sweeper.records.seeds import pair_seed

PROMPTS = 16
"""Number of prompts: with answers of some dozen tokens each, a few hundred tokens of either model.
Fewer give no useful interval."""
TOP = 16
"""Number of each model's most likely tokens that are compared."""
_RULED_OUT = -1e4
"""Log-probability of a token with a logit of -inf, so that sums stay finite."""
_POSITIONS = 64
"""Positions whose logits are computed at a time."""

Report = Callable[[str, int | None, int | None], None]
"""Callback for the phase, and the answers done of those to do in it."""


@dataclass(frozen=True)
class PairProbe:
    """A diagnosis with the texts that it was made on."""

    diagnosis: PairDiagnosis
    texts: tuple[tuple[str, str, str], ...]
    """Prompts with the answers of the student and of the study's teacher."""


@dataclass(frozen=True)
class _Prediction:
    """One model's next-token predictions at each of an answer's tokens, on the CPU."""

    log_probabilities: Tensor
    """Log-probabilities of the answer's tokens (tokens)."""
    entropies: Tensor
    """Entropies (tokens)."""
    top_ids: Tensor
    """The most likely tokens (tokens × top), most likely first."""
    top_masses: Tensor
    """Their probabilities (tokens × top)."""


@dataclass(frozen=True)
class _Prompts:
    """Prompts of the training data that both models answer, in the student's rendering.

    Models read these in training. ``teacher_outputs`` may ask the teacher in its own rendering, but
    only answers to the same tokens estimate a divergence.
    """

    data: TrainingData
    ids: list[list[int]]
    request: PairRequest

    def answers(
        self, model: Any, seed: int, batch_size: int, report: Callable[[int], None]
    ) -> list[Rollout]:
        """Return one answer of the model to each prompt, at temperature 1."""
        tokenizer = self.data.tokenizer
        return generate(
            model,
            self.ids,
            temperature=1.0,
            max_new_tokens=self.request.max_new_tokens,
            end_ids=end_token_ids(model, tokenizer),
            pad_id=int(tokenizer.pad_token_id),
            seed=seed,
            batch_size=batch_size,
            report=report,
        )

    def read(self, model: Any, answers: Sequence[Rollout]) -> list[_Prediction]:
        """Return the model's predictions along the answers."""
        head = LMHead.of(model, trained=False)
        return [_predict(head, *pair) for pair in zip(self.ids, answers, strict=True)]


def probe_pair(
    data: TrainingData, resources: Resources, request: PairRequest, report: Report
) -> PairProbe:
    """Sample answers to some training prompts from both models, and let both read them.

    Raises:
        BadInputError: No prompt leaves room for an answer.
        DivergedError: A model's logits are not finite.
    """
    inputs = data.inputs
    first, *rest = request.teachers
    teachers = {first: inputs.teacher}
    teachers |= {name: own_teacher(inputs, {"model": name}) for name in rest}
    prompts = _Prompts(data, _draw(data, request, (*teachers.values(), inputs.student)), request)
    total = len(prompts.ids)

    def sample(model: Any, role: str, name: str, batch_size: int) -> list[Rollout]:
        phase = f"answers of the {role}"
        report(phase, 0, total)
        seed = pair_seed(inputs.seed, name)
        return prompts.answers(model, seed, batch_size, lambda done: report(phase, done, total))

    def load_student() -> Any:
        report("load the student", None, None)
        return starting_student(data, resources)

    model = load_student()
    ours = sample(model, "student", "student", inputs.evaluation.batch_size)
    ours_by_student = prompts.read(model, ours)
    answers: list[list[Rollout]] = []
    by_teachers: list[tuple[list[_Prediction], list[_Prediction]]] = []
    for name, config in teachers.items():
        # The model before is freed: both need not fit into the memory together.
        del model
        _free()
        report("load the teacher", None, None)
        model = SharedTeacher(inputs, config, resources).load()
        theirs = sample(model, "teacher", name, inputs.teacher_outputs.batch_size)
        answers.append(theirs)
        by_teachers.append((prompts.read(model, ours), prompts.read(model, theirs)))
    del model
    _free()
    model = load_student()
    report("student reads the teacher", None, None)
    by_student = [prompts.read(model, theirs) for theirs in answers]
    marks = AnswerMarks.of(data.tokenizer)
    pairs = [
        _pair(name, marks, (ours, ours_by_student, read[0]), (theirs, mine, read[1]))
        for name, theirs, mine, read in zip(teachers, answers, by_student, by_teachers, strict=True)
    ]
    decode = data.tokenizer.decode
    texts = zip(prompts.ids, ours, answers[0], strict=True)
    return PairProbe(
        PairDiagnosis(
            request=request,
            seed=inputs.seed,
            top=ours_by_student[0].top_ids.shape[1],
            vocabulary=len(data.tokenizer.get_vocab()),
            pairs=tuple(pairs),
        ),
        tuple((decode(ids), decode(a.tokens), decode(b.tokens)) for ids, a, b in texts),
    )


def _free() -> None:
    """Free the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _draw(
    data: TrainingData, request: PairRequest, models: Sequence[ModelConfig]
) -> list[list[int]]:
    """Draw different prompts that leave room for an answer in every model.

    Raises:
        BadInputError: There are none.
    """
    room = min((positions(model) or 0 for model in models if ends(model)), default=None)
    tokens = data.tokens(data.inputs.training.max_length)
    fitting = [
        prompt
        for prompt in dict.fromkeys(sequence.prompt for sequence in tokens.sequences)
        if room is None or len(prompt) + request.max_new_tokens <= room
    ]
    if not fitting:
        raise BadInputError(
            f"expected prompts that leave room for {request.max_new_tokens} tokens in models of"
            f" {room} positions, found none",
            ("data", "train"),
        )
    chosen = random.Random(pair_seed(data.inputs.seed, "prompts"))
    return [list(prompt) for prompt in chosen.sample(fitting, min(PROMPTS, len(fitting)))]


@torch.no_grad()
def _predict(head: LMHead, prompt: Sequence[int], answer: Rollout) -> _Prediction:
    """Return a model's predictions along one answer.

    Raises:
        DivergedError: Its logits are not finite.
    """
    batch = PromptCollator(0).pad([(prompt, answer.tokens)])
    states = head.states({"input_ids": batch["input_ids"]}, counted_positions(batch["labels"]))
    parts = []
    for start in range(0, len(states), _POSITIONS):
        part = states[start : start + _POSITIONS]
        logits = head.logits(part).float()
        if not bool(logits.amax(-1).isfinite().all()):
            raise DivergedError("The logits are not finite: the model does not work as it is.")
        logs = logits.log_softmax(-1).clamp_(min=_RULED_OUT)
        tokens = torch.tensor(answer.tokens[start : start + len(part)], device=logs.device)
        masses, ids = logs.topk(min(TOP, logs.shape[-1]))
        chosen = logs.gather(-1, tokens[:, None])[:, 0]
        entropies = -torch.linalg.vecdot(logs.exp(), logs)
        parts.append([x.cpu() for x in (chosen.double(), entropies.double(), ids, masses.exp())])
    return _Prediction(*(torch.cat(column) for column in zip(*parts, strict=True)))


_Read = tuple[Sequence[Rollout], Sequence[_Prediction], Sequence[_Prediction]]
"""One model's answers, with the student's and the teacher's predictions along them."""


def _pair(teacher: str, marks: AnswerMarks, ours: _Read, theirs: _Read) -> ProbedPair:
    prompts = []
    for own, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        # At the first token every answer has the same prompt before it.
        first = [int(prediction.top_ids[0, 0]) for prediction in own[1:]]
        prompts.append(
            ProbedPrompt(
                same_first_token=first[0] == first[1],
                student=_answer(marks, *own),
                teacher=_answer(marks, *other),
            )
        )
    return ProbedPair(teacher=teacher, prompts=tuple(prompts))


def _answer(
    marks: AnswerMarks, answer: Rollout, student: _Prediction, teacher: _Prediction
) -> SampledAnswer:
    """Sum both models' predictions over an answer."""
    count = len(answer.tokens)
    quarter = torch.arange(count) * QUARTERS // count
    common = student.top_ids[:, :, None] == teacher.top_ids[:, None, :]

    def reading(prediction: _Prediction, shared: Tensor) -> Reading:
        sums = torch.zeros(QUARTERS, dtype=torch.float64)
        return Reading(
            log_probability=float(prediction.log_probabilities.sum()),
            entropies=tuple(sums.index_add(0, quarter, prediction.entropies).tolist()),
            shared_mass=float((prediction.top_masses * shared).sum(dtype=torch.float64)),
        )

    thinking, template = marks.found(answer.tokens[:-1] if answer.finished else answer.tokens)
    return SampledAnswer(
        tokens=count,
        ended=answer.finished,
        quarters=tuple(torch.bincount(quarter, minlength=QUARTERS).tolist()),
        student=reading(student, common.any(2)),
        teacher=reading(teacher, common.any(1)),
        shared_tokens=float(common.any(2).double().mean(-1).sum()),
        thinking_marks=thinking,
        template_marks=template,
    )
