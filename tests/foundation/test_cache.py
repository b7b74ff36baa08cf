from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweeper.foundation.cache import (
    Cache,
    content_key,
    default_root,
    directory_hash,
    file_hash,
    is_whole,
    noting,
)


def fill(text: str) -> Any:
    return lambda directory: (directory / "value").write_text(text, encoding="utf-8")


def forbidden(directory: Path) -> None:
    raise AssertionError("built again")


def test_an_entry_is_built_once_and_then_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.get_or_compute("students", {"layers": 2}, fill("a"))
    assert entry == cache.path("students", content_key({"layers": 2}))
    assert cache.get_or_compute("students", {"layers": 2}, forbidden) == entry
    assert (entry / "value").read_text(encoding="utf-8") == "a"
    assert json.loads((entry / "key.json").read_text(encoding="utf-8")) == {"layers": 2}


def test_every_determinant_and_the_kind_make_another_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entries = {
        cache.get_or_compute(kind, determinants, fill("a"))
        for kind in ("students", "outputs")
        for determinants in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {"a": "1"})
    }
    assert len(entries) == 10


def test_the_key_does_not_depend_on_the_order_of_the_determinants() -> None:
    assert content_key({"a": 1, "b": {"c": 2, "d": 3}}) == content_key(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_a_determinant_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        content_key({"path": Path("x")})


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def broken(directory: Path) -> None:
        fill("half")(directory)
        raise error

    cache = Cache(tmp_path)
    with pytest.raises(error):
        cache.get_or_compute("students", {"a": 1}, broken)
    assert not cache.path("students", content_key({"a": 1})).exists()
    assert [path for path in (tmp_path / "students").iterdir() if path.is_dir()] == []
    entry = cache.get_or_compute("students", {"a": 1}, fill("whole"))
    assert (entry / "value").read_text(encoding="utf-8") == "whole"


def _count_build(root: Path, barrier: Any) -> None:
    def build(directory: Path) -> None:
        with (root / "builds").open("a", encoding="utf-8") as file:
            file.write("x")
        fill("a")(directory)

    barrier.wait()
    Cache(root).get_or_compute("students", {"a": 1}, build)


def test_processes_that_want_the_same_entry_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    jobs = [context.Process(target=_count_build, args=(tmp_path, barrier)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert (tmp_path / "builds").read_text(encoding="utf-8") == "x"


def test_the_default_place_follows_the_users_cache_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "sweeper"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "sweeper"


def test_a_directorys_hash_sees_names_bytes_and_subfolders(tmp_path: Path) -> None:
    hashes = set()

    def note() -> None:
        hashes.add(directory_hash(tmp_path / "d"))

    (tmp_path / "d" / "sub").mkdir(parents=True)
    note()
    (tmp_path / "d" / "a").write_bytes(b"1")
    note()
    (tmp_path / "d" / "a").write_bytes(b"2")
    note()
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    note()
    (tmp_path / "d" / "b").rename(tmp_path / "d" / "sub" / "b")
    note()
    assert len(hashes) == 5
    assert file_hash(tmp_path / "d" / "sub" / "b") in (
        "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"  # SHA-256 of "2"
    )


@pytest.mark.parametrize("damage", ["removed", "cut short", "listing removed"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    entry = cache.get_or_compute("students", {"a": 1}, fill("whole"))
    assert is_whole(entry)
    if damage == "removed":
        (entry / "value").unlink()
    elif damage == "cut short":
        (entry / "value").write_text("who", encoding="utf-8")
    else:
        (entry / "files.json").unlink()
    assert not is_whole(entry)
    assert cache.get_or_compute("students", {"a": 1}, fill("whole")) == entry
    assert (entry / "value").read_text(encoding="utf-8") == "whole"


@pytest.mark.parametrize("removed", ["the entry", "the kind", "the cache"])
def test_a_cache_that_is_emptied_meanwhile_is_filled_again(tmp_path: Path, removed: str) -> None:
    root = tmp_path / "cache"
    cache = Cache(root)
    calls: list[str] = []

    def empty(place: str, entry: Path) -> None:
        if place not in calls:
            doomed = {"the entry": entry, "the kind": entry.parent, "the cache": root}
            shutil.rmtree(doomed[removed])
        calls.append(place)

    def build(directory: Path) -> None:
        fill("a")(directory)
        empty("build", directory)

    def read(directory: Path) -> str:
        empty("read", directory)
        return (directory / "value").read_text(encoding="utf-8")

    assert cache.read("students", {"a": 1}, build, read) == "a"
    assert calls == ["build", "build", "read", "build", "read"]
    assert cache.get_or_compute("students", {"a": 1}, forbidden).is_dir()


def test_an_error_in_reading_a_whole_entry_is_the_readers(tmp_path: Path) -> None:
    def read(directory: Path) -> str:
        raise ValueError("not what it should be")

    with pytest.raises(ValueError, match="not what"):
        Cache(tmp_path).read("students", {"a": 1}, fill("a"), read)


def test_what_killed_builders_left_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.path("students", content_key({"a": 1}))
    (entry.parent / f".{entry.name}.abcdefgh").mkdir(parents=True)
    cache.get_or_compute("students", {"a": 1}, fill("a"))
    assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == [entry.name]


def test_what_a_job_has_used_is_noted_but_for_what_may_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    before = cache.get_or_compute("students", {"a": 0}, fill("a"))
    with noting() as used:
        new = cache.get_or_compute("students", {"a": 1}, fill("a"))
        cache.get_or_compute("students", {"a": 0}, forbidden)
        cache.get_or_compute("states", {"a": 1}, fill("a"), limit=1000)
    cache.get_or_compute("students", {"a": 2}, fill("a"))
    assert used == {before, new}
