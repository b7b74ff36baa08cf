"""``records.json.gz``: everything that a study's reports show, in one file that can be passed on.

It holds the study's record without secrets, and without what only this machine can use: the names
of hosts, files of the cache, and the tracebacks of failures. Reports are written from the same
record, so that the file gives them again, byte by byte.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from sweeper.config.names import is_name
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.foundation.files import write_bytes_atomically
from sweeper.foundation.secrets import redacted
from sweeper.records import SCHEMA_VERSION
from sweeper.records.study_record import StudyRecord

NAME = "records.json.gz"
MOST_BYTES = 2**30
"""Largest size of such a file unpacked: a damaged or foreign one must not fill the memory."""

_FORMAT = "sweeper records"
_LOCAL: dict[str, Any] = {
    "host": "",
    "held_out": None,
    "start_weights": None,
    "cached": (),
    "versions": {},
}
"""Fields that are left out of an outcome, with what stands in their place."""


def shareable(record: StudyRecord) -> StudyRecord:
    """Return the record without secrets and without what only this machine can use."""
    plain = record.model_dump(mode="json")
    own = [arm["teacher"] for arm in plain["arms"]]
    ends = [plain[name] for name in ("teacher", "starting_student", "pair")]
    ends += [*own, plain.get("answers")]
    if test := plain["test"]:
        ends += [test["teacher"], test["starting_student"]]
    jobs = [job for arm in plain["arms"] for kind in ("trials", "finals") for job in arm[kind]]
    for outcome in (*ends, *(job["outcome"] for job in jobs)):
        if outcome is not None:
            outcome |= _LOCAL
            if outcome["failure"]:
                outcome["failure"]["details"] = ""
    for server in plain.get("servers", ()):
        for start in server["starts"]:
            start.pop("host", None)
    return StudyRecord.model_validate(redacted(plain))


def write_records(record: StudyRecord, path: Path) -> None:
    """Write a ``shareable`` record; the same record gives the same bytes."""
    content = {
        "format": _FORMAT,
        "schema_version": SCHEMA_VERSION,
        "record": record.model_dump(mode="json"),
    }
    text = json.dumps(content, separators=(",", ":"))
    write_bytes_atomically(path, gzip.compress(text.encode(), compresslevel=6, mtime=0))


def read_records(path: Path) -> StudyRecord:
    """Return the record that ``write_records`` wrote.

    Raises:
        ConfigError: The file is not there, is damaged, or is something else.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise _refused(path, "no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _refused(path, f"expected {NAME} of a report, found {_what(error)}") from None
    if len(text) > MOST_BYTES:
        message = f"expected {NAME} of a report, found more than {MOST_BYTES / 2**30:g} GiB in it"
        raise _refused(path, message)
    return _parsed(path, text)


def _parsed(path: Path, text: bytes) -> StudyRecord:
    try:
        content = from_json(text)
    except ValueError:
        message = f"expected {NAME} of a report, found something else than JSON in it"
        raise _refused(path, message) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise _refused(path, f"expected {NAME} of a report, found JSON of another kind")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        message = f"expected records of schema version {SCHEMA_VERSION}, found {version!r}"
        raise _refused(path, message)
    try:
        record = StudyRecord.model_validate(content.get("record"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        message = f"expected the records of a study, found others: {first['msg'].lower()}"
        raise _refused(path, message, key) from None
    # They become names of files and headings of reports.
    for name in (record.study, *(arm.name for arm in record.arms)):
        if not is_name(name):
            raise _refused(path, f"expected the name of a study or an arm, found {name!r}")
    return record


def _what(error: Exception) -> str:
    if isinstance(error, gzip.BadGzipFile):
        return "no gzip file"
    if isinstance(error, OSError):
        return f"that it cannot be read ({error.strerror})"
    return "only a part of it" if isinstance(error, EOFError) else "a damaged one"


def _refused(path: Path, message: str, key: str = "") -> ConfigError:
    return ConfigError([Problem(source=str(path), message=message, path=key)])
