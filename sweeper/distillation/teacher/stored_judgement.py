"""A served teacher's judgement of fixed sequences, asked for once.

References and stored teacher answers are read again in every epoch, by every trial, arm and study.
Their positions' k most likely tokens lie in the cache, 8 k bytes a position, and are memory-mapped.

What is received is kept at once, in a folder next to the entries, and counts whichever study asks
next: for the same sequences, for more of them, and for fewer tokens of each position.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweeper.distillation.data.compatibility import token_ids
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.models.loading import identity
from sweeper.distillation.partial_divergence import TokenLogProbs
from sweeper.distillation.teacher.received_judgement import (
    ABOUT,
    IDS,
    LOG_PROBS,
    NAME_SIZE,
    NAMES,
    ReceivedJudgement,
    described,
)
from sweeper.distillation.teacher.served_judge import ServedJudge, Text
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.cache import Cache, content_key, hash_text, is_whole

KIND = "teacher_top_k"
BYTES_A_TOKEN = 8
"""Bytes of an id and a log-probability."""


@dataclass(frozen=True)
class StoredJudgement:
    """The teacher's most likely tokens at the positions that predict the answers of sequences."""

    reported: TokenLogProbs
    """Memory-mapped tokens and log-probabilities, one sequence after the other."""
    starts: tuple[int, ...]
    """First position of each sequence, followed by the number of positions."""

    def of(self, indices: Sequence[int], k: int) -> TokenLogProbs:
        """Return the k most likely tokens of some sequences, one after the other."""
        places = [slice(self.starts[i], self.starts[i + 1]) for i in indices]
        ids = [self.reported.ids[place, :k] for place in places]
        log_probs = [self.reported.log_probs[place, :k] for place in places]
        return TokenLogProbs(torch.cat(ids), torch.cat(log_probs))


def get_or_ask(
    teacher: SharedTeacher,
    sequences: Sequence[TokenSequence],
    k: int,
    report: Callable[[int, int], None] = lambda done, total: None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> StoredJudgement | None:
    """Return the teacher's judgement of ``sequences``, all with an answer.

    Args:
        teacher: A served teacher.
        sequences: Sequences of the data.
        k: Tokens of each position.
        report: Callback for the number of sequences judged and their total.
        waiting: Entered while the server is asked.

    Returns:
        None if it exceeds the study's ``compute.teacher_states_gib``.

    Raises:
        BadInputError: The server refuses a sequence, or its key is not set.
        NoAnswerError: It does not answer.
        OSError: There is no room on the disk.
    """
    inputs = teacher.inputs
    starts = (0, *accumulate(sequence.trained for sequence in sequences))
    limit = round(inputs.teacher_states_gib * 2**30)
    if not 0 < starts[-1] * k * BYTES_A_TOKEN <= limit:
        return None
    vocabulary = token_ids(inputs.student)
    texts = [Text.of(sequence) for sequence in sequences]
    names = [_name_of(text) for text in texts]
    about = {
        "teacher": content_key({**identity(teacher.config), "vocabulary": vocabulary}),
        "sequences": hash_text(b"".join(names).hex()),
    }
    determinants = {**about, "k": k}
    root = Path(inputs.cache) / KIND
    received = root / f".received.{content_key(determinants)}"

    def build(directory: Path) -> None:
        with ReceivedJudgement.opened(received, names, starts, determinants) as kept:
            kept.take_over(_others(root, about["teacher"], k, received))
            missing = kept.missing()
            done = len(sequences) - sum(map(len, missing.values()))
            report(done, len(sequences))
            if missing:
                asked = {texts[equal[0]]: equal for equal in missing.values()}
                place = teacher.resources.served_teacher
                with waiting(), ServedJudge(teacher.config, place, k, vocabulary) as judge:
                    for text, judgement in judge.as_they_come(asked):
                        for index in asked[text]:
                            kept.add(index, judgement.ids.numpy(), judgement.log_probs.numpy())
                        done += len(asked[text])
                        report(done, len(sequences))
        for name in (IDS, LOG_PROBS, NAMES, ABOUT):
            _link(received / name, directory / name)

    for _ in range(3):
        try:
            entry = _find(root, about, k)
            if entry is None:
                entry = Cache(Path(inputs.cache)).get_or_compute(KIND, determinants, build, limit)
                shutil.rmtree(received, ignore_errors=True)  # the entry has it all
            return StoredJudgement(_read(entry, starts[-1]), starts)
        except FileNotFoundError:
            continue  # another process removed the entry, or emptied the cache
    return None


def _name_of(text: Text) -> bytes:
    """Return a hash of everything that decides the judgement, next to the teacher."""
    return sha256(f"{text.tokens}{text.positions}".encode()).digest()[:NAME_SIZE]


def _find(root: Path, about: Mapping[str, Any], k: int) -> Path | None:
    """Return an entry of the same sequences with at least k tokens of each position."""
    for entry, found in described(root):
        same = all(found.get(name) == value for name, value in about.items())
        if same and found["k"] >= k and is_whole(entry):
            with suppress(OSError):
                os.utime(entry)  # it is used
            return entry
    return None


def _others(root: Path, teacher: str, k: int, but: Path) -> Iterator[ReceivedJudgement]:
    """Yield what was received for other sequences that has at least k tokens of each position."""
    for folder, about in described(root):
        if folder == but or about.get("teacher") != teacher or about["k"] < k:
            continue
        with suppress(OSError, ValueError), ReceivedJudgement.existing(folder, about) as other:
            yield other


def _read(entry: Path, positions: int) -> TokenLogProbs:
    k = int(json.loads((entry / ABOUT).read_text(encoding="utf-8"))["k"])
    return TokenLogProbs(
        _mapped(entry / IDS, (positions, k), torch.int32),
        _mapped(entry / LOG_PROBS, (positions, k), torch.float32),
    )


def _mapped(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(path)
    whole = torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=dtype)
    return whole.view(shape)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name: until the entry is whole, it keeps its first."""
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)
