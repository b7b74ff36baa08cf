"""Stored judgement of fixed sequences: asked for once, whatever happens, within a bound."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.teacher.stored_judgement import KIND, StoredJudgement, get_or_ask
from sweeper.foundation.errors import BadInputError, NoAnswerError
from sweeper.records import Resources, StudyInputs
from tests.support import training_jobs as jobs
from tests.support.chat_server import ChatServer, chat_server, half_a_body, hanging, reply
from tests.support.prompt_log_probs import log_softmax, report
from tests.support.tiny_studies import ROOT

NOW = {"Retry_After": "0"}
K = 3


def opinion(tokens: Sequence[int], position: int) -> list[float]:
    """Log-probabilities of 16 tokens that depend on all tokens before the position."""
    seed = sum((index + 1) * token for index, token in enumerate(tokens[:position]))
    return log_softmax([float((seed * (one + 3)) % 17) for one in range(16)])


def judge(tokens: list[int], k: int) -> list[Any]:
    return report(tokens, [opinion(tokens, position) for position in range(1, len(tokens))], k)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(judge=judge) as running:
        yield running


SEQUENCES = tuple(
    TokenSequence((1, 2, 3 + row), tuple(range(4, 7 + row % 3)), ((1, 2),) if row % 4 == 0 else ())
    for row in range(12)
)


def teacher_at(url: str, folder: Path, gib: float = 1.0, **keys: Any) -> SharedTeacher:
    values = {
        "model": "builtin/adder-teacher",
        "server": {"url": url, "api": "vllm", "concurrency": 2, **keys},
    }
    teacher = ModelConfig.model_validate(values)
    inputs: StudyInputs = jobs.make_study_inputs(folder, teacher=teacher, teacher_states_gib=gib)
    place = Resources(directory=str(folder), device="cpu", threads=1)
    return SharedTeacher(inputs, teacher, place)


def ask(
    server: ChatServer,
    folder: Path,
    sequences: Sequence[TokenSequence] = SEQUENCES,
    k: int = K,
    **keys: Any,
) -> StoredJudgement:
    stored = get_or_ask(teacher_at(server.url, folder, **keys), sequences, k)
    assert stored is not None
    check(stored, sequences, k)
    return stored


def check(stored: StoredJudgement, sequences: Sequence[TokenSequence], k: int = K) -> None:
    """The stored numbers are the server's, of the positions that are trained."""
    for index, one in enumerate(sequences):
        tokens, start = [*one.prompt, *(one.completion or ())], len(one.prompt)
        positions = [i for first, end in one.earlier for i in range(first, end)]
        positions += range(start, len(tokens))
        found = stored.of([index], k)
        assert found.ids.shape == (len(positions), k)
        for row, position in enumerate(positions):
            theirs = torch.tensor(opinion(tokens, position))
            expected = theirs.topk(k).values
            torch.testing.assert_close(found.log_probs[row], expected)
            torch.testing.assert_close(theirs[found.ids[row].long()], expected)


def ask_slowly(url: str, folder: str) -> None:
    """Ask for one sequence after the other, in a process of its own."""
    get_or_ask(teacher_at(url, Path(folder), concurrency=1), SEQUENCES, K)


def entries(folder: Path, pattern: str = "[!.]*") -> list[Path]:
    return sorted((folder / "cache" / KIND).glob(pattern))


def test_it_is_asked_for_once(server: ChatServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    get_or_ask(teacher_at(server.url, tmp_path), SEQUENCES, K, lambda *done: seen.append(done))
    assert seen == [(done, 12) for done in range(13)]
    assert len(server.asked) == 12
    body = server.asked[0]
    assert body["prompt_logprobs"] == K and body["max_tokens"] == 1
    stored = ask(server, tmp_path)
    # Another way of asking, and fewer tokens.
    ask(server, tmp_path, concurrency=4, timeout=30)
    ask(server, tmp_path, k=1)
    assert len(server.asked) == 12
    assert len(entries(tmp_path)) == 1
    assert entries(tmp_path, ".received.*") == []
    both = stored.of([2, 0], K)
    assert torch.equal(both.ids, torch.cat([stored.of([i], K).ids for i in (2, 0)]))


def test_more_sequences_and_equal_ones_ask_for_what_is_new(
    server: ChatServer, tmp_path: Path
) -> None:
    ask(server, tmp_path, SEQUENCES[:8])
    ask(server, tmp_path, [*SEQUENCES[::-1], SEQUENCES[0]])
    assert len(server.asked) == 12
    # The same tokens, of which others are trained.
    moved = TokenSequence((*SEQUENCES[1].prompt, 4), (SEQUENCES[1].completion or ())[1:])
    ask(server, tmp_path, [*SEQUENCES, moved])
    assert len(server.asked) == 13
    ask(server, tmp_path, k=K + 1)
    assert len(server.asked) == 25


def test_another_server_is_another_teacher(server: ChatServer, tmp_path: Path) -> None:
    ask(server, tmp_path)
    ask(server, tmp_path, model="another")
    ask(server, tmp_path, extra_body={"priority": 1})
    assert len(server.asked) == 36
    assert server.asked[-1]["priority"] == 1


def test_a_failure_keeps_what_came(server: ChatServer, tmp_path: Path) -> None:
    server.faults = [None, reply(429, "slow", **NOW), None, half_a_body, None, None]
    server.always = reply(503, "down", **NOW)
    with pytest.raises(NoAnswerError):
        ask(server, tmp_path, retry_for=0.05)
    received = sum(server.answered.values())
    assert 0 < received < 12
    server.always = reply(400, "no such thing")
    with pytest.raises(BadInputError, match="no such thing"):
        ask(server, tmp_path)
    server.always = None
    ask(server, tmp_path)
    assert set(server.answered.values()) == {1}


@pytest.mark.soak
def test_a_killed_process_loses_nothing_that_it_received(
    server: ChatServer, tmp_path: Path
) -> None:
    module = "tests.distillation.teacher.test_stored_judgement"
    program = f"import sys; from {module} import *; ask_slowly(*sys.argv[1:])"
    release, asked = threading.Event(), threading.Event()

    def hang(handler: Any) -> None:
        asked.set()
        hanging(release)(handler)

    server.faults = [*[None] * 7, hang]
    process = subprocess.Popen([sys.executable, "-c", program, server.url, str(tmp_path)], cwd=ROOT)
    assert asked.wait(120)
    process.kill()
    process.wait()
    release.set()
    assert sum(server.answered.values()) == 7
    # A loss of power may leave numbers that were not written: here, of one sequence.
    [kept] = entries(tmp_path, ".received.*")
    with (kept / "ids.bin").open("r+b") as file:
        file.write(b"\xff\xff")
    # Other studies use what came, too.
    ask(server, tmp_path, SEQUENCES[:10])
    assert sum(server.answered.values()) == 7 + 3 + 1
    ask(server, tmp_path)
    assert sum(server.answered.values()) == 7 + 3 + 1 + 2
    assert entries(tmp_path, ".received.*") == []


@pytest.mark.parametrize("name", ["ids.bin", "about.json", "sequences.bin"])
def test_a_damaged_entry_is_asked_for_again(server: ChatServer, tmp_path: Path, name: str) -> None:
    ask(server, tmp_path)
    [entry] = entries(tmp_path)
    (entry / name).write_bytes(b"[")
    ask(server, tmp_path)
    assert len(server.asked) == 24


def test_two_that_want_it_at_once_ask_once(server: ChatServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: ask(server, tmp_path), range(3)))
    assert set(server.answered.values()) == {1}


def test_the_least_recently_used_goes_first_within_the_bound(
    server: ChatServer, tmp_path: Path
) -> None:
    first, second, third = SEQUENCES[:4], SEQUENCES[4:8], SEQUENCES[8:]
    ask(server, tmp_path, first)
    [entry] = entries(tmp_path)
    size = sum(path.stat().st_size for path in entry.iterdir())
    ask(server, tmp_path, second)
    ask(server, tmp_path, first)
    ask(server, tmp_path, third, gib=2.5 * size / 2**30)
    assert len(entries(tmp_path)) == 2
    ask(server, tmp_path, first)
    assert len(server.asked) == 12
    ask(server, tmp_path, second)
    assert len(server.asked) == 16


@pytest.mark.parametrize("gib", [0.0, 1e-9])
def test_more_than_the_bound_is_not_asked_for(
    server: ChatServer, tmp_path: Path, gib: float
) -> None:
    assert get_or_ask(teacher_at(server.url, tmp_path, gib), SEQUENCES, K) is None
    assert server.asked == []


def test_nothing_to_judge(server: ChatServer, tmp_path: Path) -> None:
    assert get_or_ask(teacher_at(server.url, tmp_path), [TokenSequence((1, 2), ())], K) is None
    ask(server, tmp_path, [*SEQUENCES[:2], TokenSequence((1, 2), ())])
    assert len(server.asked) == 2
