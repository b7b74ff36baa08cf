"""Files of rows as streams: unpacked, decoded, and read no further than somebody asks for."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sweeper.foundation.data_folders import first_line
from sweeper.foundation.errors import BadInputError

_POINTER = b"version https://git-lfs.github.com/spec/"
_SOME = 2**20
"""Bytes that are read at a time."""


def _zstd(path: Path) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")


_UNPACK: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}


class _Unpacked(io.RawIOBase):
    """What a file holds, unpacked; errors of the reading name the file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        with _naming(path):
            unpack = _UNPACK.get(path.suffix.lower())
            self._inner: Any = path.open("rb") if unpack is None else unpack(path)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return how many bytes were read."""
        with _naming(self._path):
            content = self._inner.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            inner = getattr(self, "_inner", None)
            if inner is not None:
                inner.close()
        super().close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {first_line(error)}") from error


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a file in the block, unpacked if its suffix says that it is compressed.

    Raises:
        BadInputError: It cannot be read, or is a pointer without the rows.
    """
    raw: Any = _Unpacked(path)
    with io.BufferedReader(raw, _SOME) as stream:
        if stream.peek(len(_POINTER)).startswith(_POINTER):
            raise BadInputError(
                f"{path} is a pointer of Git LFS, without the rows: run git lfs pull"
            )
        yield stream


def is_packed(path: Path) -> bool:
    """Return whether a file's suffix says that it is compressed."""
    return path.suffix.lower() in _UNPACK


@contextmanager
def decoded(path: Path, stream: io.BufferedReader[Any], newline: str) -> Iterator[IO[str]]:
    r"""Yield the text of a stream, as ``io.TextIOWrapper`` does; it is UTF-8.

    Args:
        path: The file, for messages.
        stream: Its bytes.
        newline: ``"\n"``, or empty for every kind of line end.

    Raises:
        BadInputError: It is no UTF-8, where that is read.
    """
    # Without a mark, ASCII signs in UTF-16 have a zero byte before or after them.
    first = stream.peek(2)
    if first.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in first[:2]:
        raise BadInputError(
            f"expected UTF-8 text in {path}, found UTF-16: convert it with iconv -f UTF-16 -t UTF-8"
        )
    try:
        yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline)
    except UnicodeDecodeError:
        raise _undecodable(path) from None


def _undecodable(path: Path) -> BadInputError:
    """Return the error of a file that is not UTF-8, with the line of the first such byte."""
    line, byte, windows = 0, 0, False
    with opened(path) as stream:
        for number, content in enumerate(stream, start=1):
            # Latin-1 has no signs from 0x80 to 0x9f; Windows has quotation marks there.
            windows |= re.search(rb"[\x80-\x9f]", content) is not None
            if line == 0:
                try:
                    content.decode()
                except UnicodeDecodeError as error:
                    line, byte = number, content[error.start]
    kind = "WINDOWS-1252" if windows else "ISO-8859-1"
    return BadInputError(
        f"{path}:{line}: expected UTF-8 text, found the byte 0x{byte:02x}: if the file is {kind},"
        f" convert it with iconv -f {kind} -t UTF-8"
    )
