"""Answers of a server: asked once, whatever happens, and kept as they come."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.models import ModelConfig
from sweeper.distillation.teacher.served_answers import KIND, Request, ask_all
from sweeper.foundation.errors import BadInputError, NoAnswerError
from sweeper.serving.replies import Reply, read_chat
from tests.support.chat_server import ChatServer, added, chat_server, hanging, reply
from tests.support.tiny_studies import ROOT

QUESTIONS = [f"{number}+5678?" for number in range(1000, 1024)]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def requests(questions: Sequence[str] = QUESTIONS, **body: Any) -> list[Request]:
    return [
        Request(
            "chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": question}], **body},
            read_chat,
            number,
        )
        for number, question in enumerate(questions, start=1)
    ]


def ask(
    server: ChatServer, cache: Path, asked: Sequence[Request] | None = None, **keys: Any
) -> list[Reply]:
    teacher = ModelConfig.model_validate(server.section(**keys))
    return ask_all(teacher, requests() if asked is None else asked, cache, longest=64)


def ask_alone(url: str, cache: str) -> None:
    """Ask one question after the other, in a process of its own."""
    server = {"url": url, "concurrency": 1}
    teacher = ModelConfig.model_validate({"model": "adder-9000", "server": server})
    ask_all(teacher, requests(), Path(cache), longest=64)


def texts(replies: Sequence[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def kept(cache: Path) -> Path:
    [file] = (cache / KIND).glob("*/answers.jsonl")
    return file


def test_answers_come_in_the_order_of_the_questions_and_are_asked_once(
    server: ChatServer, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    teacher = ModelConfig.model_validate(server.section(concurrency=5))
    replies = ask_all(
        teacher, requests(), tmp_path, longest=64, report=lambda *done: seen.append(done)
    )
    assert texts(replies) == [added(question) for question in QUESTIONS]
    assert seen == [(done, 24) for done in range(25)]
    assert len(server.asked) == 24
    # Another study, more rows, other rows, how it is asked: only what is new is asked.
    assert ask(server, tmp_path, concurrency=2, timeout=30, retry_for=30) == replies
    assert texts(ask(server, tmp_path, requests(QUESTIONS[::-1])))[::-1] == texts(replies)
    assert len(server.asked) == 24
    ask(server, tmp_path, requests([*QUESTIONS, "1+2?", "1+2?", "3+4?"]))
    assert len(server.asked) == 26
    assert set(server.answered.values()) == {1}


def test_whatever_changes_the_answers_asks_again(server: ChatServer, tmp_path: Path) -> None:
    some = QUESTIONS[:2]
    ask(server, tmp_path, requests(some))
    for count, (body, keys) in enumerate(
        [
            ({"temperature": 1.0}, {}),
            ({"seed": 4}, {}),
            ({}, {"model": "another"}),
            ({}, {"extra_body": {"top_p": 0.5}}),
        ],
        start=2,
    ):
        teacher = {"server": {"url": server.url, **keys}, "model": "adder-9000"}
        ask_all(ModelConfig.model_validate(teacher), requests(some, **body), tmp_path, 64)
        assert len(server.asked) == 2 * count


def test_a_failure_stops_the_others_but_loses_no_answer(server: ChatServer, tmp_path: Path) -> None:
    # Three answers, and a refusal that comes while others are under way.
    server.faults = [reply(404, "no such model")]
    with pytest.raises(BadInputError, match=r"refused row \d with 404"):
        ask(server, tmp_path, concurrency=4)
    assert len(server.asked) <= 8
    received = sum(server.answered.values())
    assert len(kept(tmp_path).read_text().splitlines()) == received
    assert texts(ask(server, tmp_path)) == [added(question) for question in QUESTIONS]
    assert set(server.answered.values()) == {1}


def test_a_server_that_stays_away_keeps_what_came(server: ChatServer, tmp_path: Path) -> None:
    ask(server, tmp_path, requests(QUESTIONS[:10]))
    server.always = reply(503, "down", Retry_After="0")
    with pytest.raises(NoAnswerError):
        ask(server, tmp_path, retry_for=0.05)
    server.always = None
    ask(server, tmp_path)
    assert set(server.answered.values()) == {1}


def test_two_that_want_the_same_at_once_ask_once(server: ChatServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: texts(ask(server, tmp_path)), range(3)))
    assert found == [[added(question) for question in QUESTIONS]] * 3
    assert set(server.answered.values()) == {1}


@pytest.mark.soak
def test_a_killed_process_loses_nothing_that_it_received(
    server: ChatServer, tmp_path: Path
) -> None:
    module = "tests.distillation.teacher.test_served_answers"
    program = f"import sys; from {module} import *; ask_alone(*sys.argv[1:])"
    release = threading.Event()
    served = threading.Event()

    def hang(handler: Any) -> None:
        served.set()
        hanging(release)(handler)

    # It answers seven times, and is in the middle of the eighth.
    server.faults = [*[None] * 7, hang]
    process = subprocess.Popen([sys.executable, "-c", program, server.url, str(tmp_path)], cwd=ROOT)
    assert served.wait(120)
    process.kill()
    process.wait()
    release.set()
    assert sum(server.answered.values()) == 7
    # A writer that dies may leave half a line.
    with kept(tmp_path).open("a") as file:
        file.write('{"asked": "0f')
    assert texts(ask(server, tmp_path)) == [added(question) for question in QUESTIONS]
    assert set(server.answered.values()) == {1}
    assert len(kept(tmp_path).read_text().splitlines()) == 25


def test_damaged_lines_are_asked_again(server: ChatServer, tmp_path: Path) -> None:
    ask(server, tmp_path, requests(QUESTIONS[:5]))
    file = kept(tmp_path)
    first, second, third, *rest = file.read_text().splitlines()
    odd = [json.dumps({"asked": json.loads(second)["asked"], "reply": {"words": "4."}}), third[:9]]
    file.write_text("\n".join(["[]", "null", '{"asked": 3}', *odd, first, *rest, ""]))
    ask(server, tmp_path, requests(QUESTIONS[:5]))
    assert sorted(server.answered.values()) == [1, 1, 1, 2, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small file system: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_loses_no_answer(server: ChatServer, small_disk: Path) -> None:
    def say(prompt: str) -> dict[str, Any]:
        with server.lock:
            if len(server.asked) == 6:  # nothing is left but what was reserved
                with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
        return {"content": added(prompt)}

    server.say = say
    with pytest.raises(OSError, match="No space left"):
        ask(server, small_disk, concurrency=3)
    assert 6 <= len(server.asked) < len(QUESTIONS)
    # Still full: nothing is asked, and so nothing is paid for.
    asked = len(server.asked)
    with pytest.raises(OSError, match="No space left"):
        ask(server, small_disk, concurrency=3)
    assert len(server.asked) == asked
    (small_disk / "ballast").unlink()
    assert texts(ask(server, small_disk, concurrency=3)) == [added(q) for q in QUESTIONS]
    assert set(server.answered.values()) == {1}
