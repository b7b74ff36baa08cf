"""The content-addressed cache: what trials, arms and studies share.

An entry is a directory under ``<root>/<kind>/<key>``. The key is a hash of everything that
determines the content, so a value never depends on who filled it. An entry appears whole or not at
all, and two processes that want the same one build it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock


def default_root() -> Path:
    """The user's cache directory for sweeper (``XDG_CACHE_HOME`` is respected)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sweeper"


def content_key(determinants: Mapping[str, Any]) -> str:
    """The key of what ``determinants`` determine: 32 hex digits of their SHA-256.

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
        """Where the entry is, or would be."""
        return self.root / kind / key

    def obtain(
        self, kind: str, determinants: Mapping[str, Any], build: Callable[[Path], None]
    ) -> Path:
        """The entry's directory, built by ``build`` if it is not there.

        Args:
            kind: The folder of entries of this kind.
            determinants: Everything that decides the content; kept beside it for reading.
            build: Fills the empty directory that it is given. If it raises, nothing is kept.
        """
        key = content_key(determinants)
        entry = self.path(kind, key)
        if entry.is_dir():
            return entry
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.parent / f".{key}.lock"):
            if entry.is_dir():
                return entry
            temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{key}."))
            try:
                build(temporary)
                text = json.dumps(determinants, indent=1, sort_keys=True)
                (temporary / "key.json").write_text(text, encoding="utf-8")
                os.replace(temporary, entry)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return entry


def hash_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_hash(directory: Path) -> str:
    """SHA-256 over the names and bytes of the files in ``directory``, subfolders included."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(directory)}\0{file_hash(path)}\0".encode())
    return digest.hexdigest()


def directory_signature(directory: Path) -> str:
    """SHA-256 over the names, sizes, first and last MiB of the files in ``directory``.

    Tells another checkpoint apart in no time, whatever its size; ``directory_hash`` reads all.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(directory)}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                file.seek(max(0, size - 2**20))
                digest.update(file.read())
    return digest.hexdigest()
