"""The content-addressed cache: what trials, arms and studies share.

An entry is a directory under ``<root>/<kind>/<key>``. The key is a hash of everything that
determines the content, so a value never depends on who filled it. An entry appears whole or not at
all, and two processes that want the same one build it once. A kind can be bounded: what was used
least recently goes first. A process that has opened an entry's files keeps them.

The user may empty the cache, or parts of it, at any time: what is missing is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from sweeper.foundation.secrets import redacted

Value = TypeVar("Value")

_LISTING = "files.json"
"""The sizes of an entry's files: a damaged entry counts as none."""
_TRIES = 3
_noted: ContextVar[set[Path] | None] = ContextVar("_noted", default=None)


def default_root() -> Path:
    """Return the user's cache directory for sweeper (``XDG_CACHE_HOME`` is respected)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sweeper"


def content_key(determinants: Mapping[str, Any]) -> str:
    """Return the key of what ``determinants`` determine: 32 hex digits of their SHA-256.

    Raises:
        TypeError: A determinant is not JSON.
    """
    text = json.dumps(determinants, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Cache:
    """A cache directory, shared by processes."""

    root: Path

    def path(self, kind: str, key: str) -> Path:
        """Return where the entry is, or would be."""
        return self.root / kind / key

    def read(
        self,
        kind: str,
        determinants: Mapping[str, Any],
        build: Callable[[Path], None],
        read: Callable[[Path], Value],
    ) -> Value:
        """Return what ``read`` makes of the entry; build it again if it disappears meanwhile.

        Args:
            kind: Folder of entries of this kind.
            determinants: Everything that decides the content.
            build: Fills the empty directory that it is given.
            read: Reads the directory that it is given, to the end.
        """
        for _ in range(_TRIES - 1):
            entry = self.get_or_compute(kind, determinants, build)
            try:
                return read(entry)
            except Exception:
                if is_whole(entry):
                    raise
        return read(self.get_or_compute(kind, determinants, build))

    def get_or_compute(
        self,
        kind: str,
        determinants: Mapping[str, Any],
        build: Callable[[Path], None],
        limit: int | None = None,
    ) -> Path:
        """Return the entry's directory; ``build`` fills it if it is not there.

        Args:
            kind: Folder of entries of this kind.
            determinants: Everything that decides the content; kept next to it for reading.
            build: Fills the empty directory that it is given. If it raises, nothing is kept.
            limit: Bytes that the kind may take once this entry is there. Others go until it fits;
                this one stays.
        """
        entry = self.path(kind, content_key(determinants))
        if limit is None and (noted := _noted.get()) is not None:
            noted.add(entry)
        for _ in range(_TRIES):
            if _use(entry):
                return entry
            if self._build(entry, determinants, build):
                if limit is not None:
                    self._shrink(entry, limit)
                return entry
        raise FileNotFoundError(f"{entry} was removed {_TRIES} times while it was made.")

    def _build(
        self, entry: Path, determinants: Mapping[str, Any], build: Callable[[Path], None]
    ) -> bool:
        """Build the entry unless another process has; False if it was removed meanwhile."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.parent / f".{entry.name}.lock"):
            if _use(entry):
                return True
            # Only the holder of the lock builds: these are damaged, or of processes that are gone.
            for leftover in (entry, *entry.parent.glob(f".{entry.name}.*")):
                if leftover.is_dir():
                    _remove(leftover)
            try:
                temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}."))
            except FileNotFoundError:
                return False
            try:
                build(temporary)
                text = json.dumps(redacted(determinants), indent=1, sort_keys=True)
                (temporary / "key.json").write_text(text, encoding="utf-8")
                (temporary / _LISTING).write_text(json.dumps(_sizes(temporary)), encoding="utf-8")
                os.replace(temporary, entry)
            except BaseException as error:
                removed = not temporary.exists()
                shutil.rmtree(temporary, ignore_errors=True)
                # With its lock removed, another process may have built it too.
                if isinstance(error, Exception) and (removed or _use(entry)):
                    return False
                raise
        return True

    def _shrink(self, newest: Path, limit: int) -> None:
        """Remove the least recently used entries next to ``newest`` until all fit."""
        found = []
        for entry in newest.parent.iterdir():
            with suppress(OSError):  # another process may be removing it
                if entry.is_dir() and not entry.name.startswith("."):
                    found.append((entry.stat().st_mtime_ns, entry, directory_size(entry)))
        total = sum(size for _, _, size in found)
        for _, entry, size in sorted(found):
            if total <= limit or entry == newest:
                continue
            _remove(entry)
            total -= size


@contextmanager
def noting() -> Iterator[set[Path]]:
    """Collect the entries that are obtained in the block, of the kinds that are not bounded."""
    entries: set[Path] = set()
    token = _noted.set(entries)
    try:
        yield entries
    finally:
        _noted.reset(token)


def is_whole(entry: Path) -> bool:
    """Return True if the entry is there, with all of its files in their full size."""
    try:
        sizes = json.loads((entry / _LISTING).read_text(encoding="utf-8"))
        return all((entry / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _use(entry: Path) -> bool:
    """Mark the entry as used; return True if it is whole."""
    with suppress(OSError):
        os.utime(entry)
    return is_whole(entry)


def _sizes(directory: Path) -> dict[str, int]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_size for path in files}


def _remove(entry: Path) -> None:
    # Renamed first, so that nobody finds half of it.
    doomed = entry.with_name(f".{entry.name.strip('.')}.{uuid.uuid4().hex}")
    with suppress(OSError):
        os.replace(entry, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def directory_size(directory: Path) -> int:
    """Return the bytes of the files in ``directory``, subfolders included."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WHOLE = 64 * 2**20
"""Bytes up to which ``directory_hash`` reads all of a file."""
_SAMPLES, _SAMPLE = 64, 2**16


def directory_hash(directory: Path, *, dated: bool = False) -> str:
    """Return the SHA-256 of the names and contents of all files below ``directory``.

    Of a large file: its size and 64 pieces of 64 KiB, evenly spread from its beginning to its end,
    because reading it all takes minutes. A change between the pieces does not show.

    Args:
        directory: Directory to hash.
        dated: Also distinguish large files by when they were written, so that a change shows
            wherever it is; so does a copy.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            content = file_hash(path) if size <= WHOLE else _sampled_hash(path, size)
            if dated and size > WHOLE:
                content += f" {path.stat().st_mtime_ns}"
            digest.update(f"{path.relative_to(directory)}\0{content}\0".encode())
    return digest.hexdigest()


def _sampled_hash(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE) * sample // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
