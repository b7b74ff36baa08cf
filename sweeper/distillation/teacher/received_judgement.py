"""Judgement of sequences by a served teacher, in a folder that grows as it is received.

The numbers lie in files of their final size: k token ids and k log-probabilities for each position,
one sequence after the other. Two further files have the hashes of the sequences, with their
positions, and the checksums of those that were received.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sweeper.foundation.disk import reserve
from sweeper.foundation.files import write_text_atomically

IDS, LOG_PROBS = "ids.bin", "log_probs.bin"
NAMES, ABOUT = "sequences.bin", "about.json"
NAME_SIZE = 16
"""Bytes of a sequence's hash."""
_RECEIVED = "received.bin"
_NUMBER_SIZE = 4
"""Bytes of a token id, and of a log-probability."""
_COUNT = struct.Struct("<I")


class ReceivedJudgement:
    """Judgement of sequences in a folder, each there as soon as it is received.

    A sequence counts once the checksum of its numbers is written, and only if it fits them: so
    neither a kill nor a loss of power leaves half of one.
    """

    def __init__(self, names: Sequence[bytes], starts: Sequence[int], k: int) -> None:
        self._names, self._starts, self._k = names, starts, k
        self._files: dict[str, int] = {}
        self._complete = False

    @classmethod
    @contextmanager
    def opened(
        cls,
        folder: Path,
        names: Sequence[bytes],
        starts: Sequence[int],
        about: Mapping[str, Any],
    ) -> Iterator[Self]:
        """Open the folder of these sequences to add to it; begin it if it is not as it should be.

        Raises:
            OSError: There is no room for all of them.
        """
        kept = cls(names, starts, int(about["k"]))
        numbers, checksums = kept._offset(len(names)), _COUNT.size * len(names)
        sizes = {IDS: numbers, LOG_PROBS: numbers, _RECEIVED: checksums}
        found = dict(described(folder.parent)).get(folder)
        if found != about or any(not _has(folder / n, size) for n, size in sizes.items()):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name, size in sizes.items():
                reserve(folder / name, size)
            counts = (end - start for start, end in pairwise(starts))
            listed = b"".join(n + _COUNT.pack(c) for n, c in zip(names, counts, strict=True))
            (folder / NAMES).write_bytes(listed)
            write_text_atomically(folder / ABOUT, json.dumps(about))
        with kept._reading(folder, os.O_RDWR):
            yield kept

    @classmethod
    @contextmanager
    def existing(cls, folder: Path, about: Mapping[str, Any]) -> Iterator[Self]:
        """Open the folder of other sequences to read it.

        Raises:
            OSError: It was removed meanwhile.
            ValueError: It is damaged.
        """
        listed = (folder / NAMES).read_bytes()
        size = NAME_SIZE + _COUNT.size
        if len(listed) % size:
            raise ValueError(f"{folder / NAMES} was cut")
        rows = [listed[start : start + size] for start in range(0, len(listed), size)]
        counts = [_COUNT.unpack(row[NAME_SIZE:])[0] for row in rows]
        kept = cls([row[:NAME_SIZE] for row in rows], (0, *accumulate(counts)), about["k"])
        kept._complete = not (folder / _RECEIVED).exists()
        with kept._reading(folder, os.O_RDONLY):
            yield kept

    @contextmanager
    def _reading(self, folder: Path, mode: int) -> Iterator[None]:
        names = (IDS, LOG_PROBS) if self._complete else (IDS, LOG_PROBS, _RECEIVED)
        try:
            for name in names:
                self._files[name] = os.open(folder / name, mode)
            yield
        finally:
            for descriptor in self._files.values():
                os.close(descriptor)

    def missing(self) -> dict[bytes, list[int]]:
        """Return the sequences that were not received, by their hashes: equal ones together."""
        found = defaultdict[bytes, list[int]](list)
        for index, name in enumerate(self._names):
            if self._read(index) is None:
                found[name].append(index)
        return found

    def add(self, index: int, ids: NDArray[Any], log_probs: NDArray[Any]) -> None:
        """Write the judgement of a sequence: tokens and log-probabilities (positions × k)."""
        numbers = {
            IDS: np.ascontiguousarray(ids, np.int32).tobytes(),
            LOG_PROBS: np.ascontiguousarray(log_probs, np.float32).tobytes(),
        }
        for name, content in numbers.items():
            os.pwrite(self._files[name], content, self._offset(index))
        checksum = _checksum(*numbers.values())
        os.pwrite(self._files[_RECEIVED], checksum, len(checksum) * index)

    def take_over(self, others: Iterator[Self]) -> None:
        """Add what was received of these sequences elsewhere."""
        missing = self.missing()
        for other in others:
            for index, name in enumerate(other._names):
                if name in missing and (numbers := other._read(index)) is not None:
                    for own in missing.pop(name):
                        self.add(own, *(part[:, : self._k] for part in numbers))

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return the numbers of a sequence, if they were received."""
        offset, end = self._offset(index), self._offset(index + 1)
        ids, log_probs = (
            os.pread(self._files[name], end - offset, offset) for name in (IDS, LOG_PROBS)
        )
        if not self._complete:
            checksum = _checksum(ids, log_probs)
            found = os.pread(self._files[_RECEIVED], len(checksum), len(checksum) * index)
            if found != checksum:
                return None
        shape = (-1, self._k)
        return (
            np.frombuffer(ids, np.int32).reshape(shape),
            np.frombuffer(log_probs, np.float32).reshape(shape),
        )

    def _offset(self, index: int) -> int:
        return self._starts[index] * self._k * _NUMBER_SIZE


def _checksum(*parts: bytes) -> bytes:
    # 0 is what the file begins with.
    return _COUNT.pack(max(1, zlib.crc32(b"".join(parts))))


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def described(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folders with judgement below ``root``, and what they are of."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        with suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            about["k"] = int(about["k"])
            yield folder, about
