"""A few thousand broken study and suite files: each gives a message with its place, or a study."""

from __future__ import annotations

import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper import cli
from sweeper.config.loading import load_study, load_suite
from sweeper.config.yaml_file import parse
from sweeper.foundation.errors import ConfigError
from tests.support.fuzzed_study import SUITE, TEXT
from tests.support.tiny_studies import ROOT, write_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
VALUES = [
    "", "~", "true", "no", "0", "-1", "1e400", "-1e-400", "9" * 400, "9" * 5000, "0x" + "f" * 400,
    ".nan", ".inf", "-.inf", "''", '"\\0"', '"\\ud800"', "2020-01-01", "2020-13-01", "12:30:45",
    "1_000", "0o17", "[]", "{}", "[[]]", "[" * 60 + "]" * 60, "[" * 3000, "{a: " * 200, "x" * 9000,
    "!!python/object/apply:os.system [touch it-ran]", "!!python/name:os.system", "!!binary aGk=",
    "!!set {a, b}", "!!omap [a: 1]", "!!float x", "!!int 1.5", "!!timestamp 1", "!own tag", "*none",
    "&a [*a]", "&a {k: *a}", "*i", "<<: *i", "{<<: 3}", "{<<: {seed: 3}}", "{? [1, 2] : 3}",
    "{1: a, 1.0: b, true: c}", "{~: 1}", "{ä: 1, 日本: 2}", "| \n  text", ">-\n  text", "@at",
    "`tick", "%TAG", "'open", '"open', "# comment", "../../../etc/passwd", "/dev/zero", "\\\\x\\y",
    "builtin/../x", "selection.yaml", ".", "a\0b", "\t1", "[1, 2", "{a: 1", "a: b: c", "- 1", "...",
    "---", "--- {}", "hf_" + "a" * 30, "postgresql://me:pw@h/d", "$(touch it-ran)", "{{7*7}}",
]  # fmt: skip
TEXTS = ["\t", "\0", "\ufeff", "\x85", "\u2028", "\x1b[2J", "---\n", "...\n", "%YAML 1.1\n", ": "]
BYTES = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xf8\x88"]


def sources() -> list[str]:
    files = [*ROOT.glob("studies/*.yaml"), *ROOT.glob("eval_suites/*.yaml")]
    return [TEXT, SUITE, *(path.read_text(encoding="utf-8") for path in sorted(files))]


def _lines(text: str, rng: random.Random) -> str:
    """Drop, repeat, move, indent or rename one line."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    line = lines[at]
    other = rng.choice(lines)
    choice = rng.randrange(8)
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines.insert(rng.randrange(len(lines)), line)
    elif choice == 2:
        lines[at] = rng.choice(["\t", " ", "  ", "      "]) + line
    elif choice == 3:
        lines[at] = line.lstrip()
    elif choice == 4:
        lines[at] = line.replace(":", rng.choice(["", "::", "x:", " :", ":\t", ": :"]), 1)
    elif choice == 5:
        lines[at] = other
    elif choice == 6:
        lines[at] = rng.choice(["- ", "? ", "!!map ", "&x ", "*x "]) + line
    else:
        lines[at] = line.partition(":")[0] + ": " + other.partition(":")[2]
    return "\n".join(lines) + "\n"


def _value(text: str, rng: random.Random) -> str:
    """Put another value behind a key."""
    lines = text.splitlines()
    keys = [at for at, line in enumerate(lines) if ":" in line]
    if not keys:
        return text
    at = rng.choice(keys)
    value = rng.choice(VALUES)
    lines[at] = lines[at].partition(":")[0] + ": " + value
    return (BOMB if "*i" in value else "") + "\n".join(lines) + "\n"


def _text(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(TEXTS) + text[at + rng.randrange(3) :]


def _cut(text: str, rng: random.Random) -> str:
    start, end = sorted(rng.sample(range(len(text)), 2))
    return rng.choice([text[:end], text[start:], text[start:end], text[:start] + text[end:]])


MUTATIONS: list[Callable[[str, random.Random], str]] = [_lines, _lines, _value, _value, _text, _cut]


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Broken files, always the same for a seed."""
    rng = random.Random(seed)
    texts = sources()
    for _ in range(count):
        text = rng.choice(texts)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if len(text.strip()) > 2:
                text = rng.choice(MUTATIONS)(text, rng)
        content = text.encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            at = rng.randrange(len(content) + 1)
            content = content[:at] + rng.choice(BYTES) + content[at:]
        yield content


def options(count: int, seed: int) -> Iterator[str]:
    """Broken ``--set`` values."""
    rng = random.Random(seed)
    keys = [line.partition(":")[0].strip() for line in TEXT.splitlines() if ":" in line]
    keys += ["", ".", "..", "a" * 5000, "ä", "\x1b", "0", "arms.gkd.search.lmbda", "-", "[", " "]
    for _ in range(count):
        name = ".".join(rng.choice(keys) for _ in range(rng.choice([1, 1, 2, 2, 3, 4])))
        yield rng.choice([name, name + "=" + rng.choice(VALUES), name + rng.choice(VALUES)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "selection.yaml").write_text(SUITE)
    for name in ("eval_suites", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("error")
    return tmp_path


def check(error: ConfigError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.source and problem.message
        assert len(str(problem)) < 20_000
        assert (problem.line is None) == (problem.column is None)
        assert problem.line is None or problem.line >= 1


@pytest.mark.soak
def test_thousands_of_broken_files(folder: Path) -> None:
    file = folder / "broken.yaml"
    refused = placed = 0
    for content in mutants(2000, seed=7):
        file.write_bytes(content)
        for load in (load_study, load_suite) if len(content) < 600 else (load_study,):
            try:
                loaded = load(file)
            except ConfigError as error:
                check(error)
                refused += 1
                placed += any(problem.line for problem in error.problems)
                assert all(
                    problem.source.startswith((str(file), "selection.yaml", str(folder), "eval_"))
                    for problem in error.problems
                )
            else:
                text = loaded.config.model_dump_json()
                again = type(loaded.config).model_validate_json(text, strict=False)
                assert again == loaded.config
    assert refused > 1000
    assert placed > 0.9 * refused
    assert not (folder / "it-ran").exists()


def test_hundreds_of_broken_options(folder: Path) -> None:
    file = write_yaml(folder / "study.yaml", {"study": "s"})
    file.write_text(TEXT)
    for option in options(200, seed=8):
        try:
            load_study(file, [option])
        except ConfigError as error:
            check(error)
    assert not (folder / "it-ran").exists()


def test_the_command_line_answers_broken_files_with_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "broken.yaml"
    rng = random.Random(9)
    for content in mutants(80, seed=9):
        file.write_bytes(content)
        argument = rng.choice(["seed=1", "seed=x", *(o for o in options(3, rng.randrange(99)))])
        command = rng.choice(["status", "report", "ui"])
        monkeypatch.setattr("sys.argv", ["sweeper", command, str(file), f"--set={argument}"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        # A study that is right after all has not been run.
        assert ended.value.code == 2, (content, argument)
        assert "Traceback" not in shown.err and shown.err.strip()
        assert "\x1b" not in shown.err and "\0" not in shown.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.yaml", "expected a mapping of keys to values, found nothing"),
        ("blank.yaml", "found nothing"),
        ("list.yaml", "expected a mapping of keys to values, found [1, 2]"),
        ("two.yaml", "not valid YAML"),
        ("utf16.yaml", "not UTF-8 text"),
        ("large.yaml", "expected at most 1 MiB"),
        ("bomb.yaml", "aliases make more than 100,000 values"),
        ("twice.yaml", 'found duplicate key "token"'),
        ("folder", "cannot be read: Is a directory"),
        ("none.yaml", "no such file"),
        ("under/none.yaml", "no such file"),
        ("x" * 300, "cannot be read: File name too long"),
        ("broken.yaml/x", "cannot be read: Not a directory"),
        ("/dev/zero", "expected at most 1 MiB"),
    ],
)
def test_files_that_are_no_studies(folder: Path, name: str, message: str) -> None:
    files = {
        "empty.yaml": b"",
        "blank.yaml": b"# nothing\n\n",
        "list.yaml": b"[1, 2]",
        "two.yaml": b"a: 1\n---\nb: 2\n",
        "utf16.yaml": "study: x".encode("utf-16"),
        "large.yaml": b"# long\n" * 200_000,
        "bomb.yaml": (BOMB + "study: *i\n").encode(),
        "twice.yaml": b"token: hf_first_secret\ntoken: hf_second_secret\n",
        "broken.yaml": b":",
    }
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / "folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_study(folder / name)
    [problem] = caught.value.problems
    assert message in problem.message
    assert name.rsplit("/", 1)[-1] in problem.source
    assert "secret" not in str(problem)


def test_the_limit_of_python_on_digits_is_there() -> None:
    assert 0 < sys.get_int_max_str_digits() < 5000


def test_an_anchor_may_stand_again() -> None:
    assert parse("a: &x 1\nb: &x 2\nc: *x\n", "text") == {"a": 1, "b": 2, "c": 2}
