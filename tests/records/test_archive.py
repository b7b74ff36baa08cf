"""``records.json.gz``: a study that can be passed on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.foundation.errors import ConfigError
from sweeper.records.archive import NAME, read_records, shareable, write_records
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import arm, completed, failed, study, trial


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return confirmed_study()


@pytest.fixture(scope="module")
def report(record: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reports")
    write_report(ReportData.of(record), directory)
    return directory


@pytest.mark.slow
def test_the_records_of_a_report_give_it_again(report: Path, tmp_path: Path) -> None:
    write_report(ReportData.of(read_records(report / NAME)), tmp_path)
    names = {path.name for path in report.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == names >= {NAME, "report.md", "verdict.png"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes(), name


def test_nothing_is_lost_that_reports_say(record: StudyRecord, tmp_path: Path) -> None:
    shared = shareable(record)
    write_records(shared, tmp_path / NAME)
    assert read_records(tmp_path / NAME) == shared
    assert shared.test == record.test
    assert [len(one.trials) for one in shared.arms] == [len(one.trials) for one in record.arms]


def test_secrets_and_what_is_only_of_this_machine_stay_out(tmp_path: Path) -> None:
    outcome = completed(0.5).model_copy(
        update={"host": "gpu-box", "held_out": "/home/me/cache/x", "cached": ("/home/me/cache/y",)}
    )
    broken = failed(message="no postgresql://me:hunter2@h/db")
    assert broken.failure is not None
    trace = broken.failure.model_copy(update={"details": 'File "/home/me/a.py", line 3'})
    trials = [
        trial(0, outcome, **{"teacher.init_kwargs.token": "hf_abcdefghijklmnopqrst"}),
        trial(1, broken.model_copy(update={"failure": trace})),
    ]
    config: dict[str, Any] = {"tracking": {"uri": "http://u:hunter2@h"}, "password": "hunter3"}
    write_report(ReportData.of(study([arm("sft", trials)], config=config)), tmp_path)
    text = gzip.decompress((tmp_path / NAME).read_bytes()).decode()
    for secret in ("hunter2", "hunter3", "hf_abc", "gpu-box", "/home/me", "line 3"):
        assert secret not in text


def _content(record: dict[str, Any], **changes: Any) -> bytes:
    content = {"format": "sweeper records", "schema_version": 1, "record": record, **changes}
    return gzip.compress(json.dumps(content).encode())


def test_what_is_no_record_is_one_message(report: Path, tmp_path: Path) -> None:
    whole = (report / NAME).read_bytes()
    plain: dict[str, Any] = json.loads(gzip.decompress(whole))["record"]
    files = {
        "no gzip file": b"study: x",
        "only a part of it": whole[: len(whole) // 2],
        "a damaged one": whole[:200] + b"\0" * 50 + whole[250:],
        "something else than JSON": gzip.compress(b"study: x"),
        "JSON of another kind": gzip.compress(b'{"a": 1}'),
        "schema version 1, found 99": _content(plain, schema_version=99),
        "arms: expected the records of a study": _content({**plain, "arms": 3}),
        "found '../../x'": _content({**plain, "study": "../../x"}),
    }
    for expected, content in files.items():
        path = tmp_path / NAME
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_records(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and expected in message, message
        assert "\n" not in message
    with pytest.raises(ConfigError, match=r"nowhere\.json\.gz: no such file"):
        read_records(tmp_path / "nowhere.json.gz")


def test_many_trials_stay_small(tmp_path: Path) -> None:
    trials = [trial(n, completed(0.5 + n / 1e4), learning_rate=1e-5 * (n + 1)) for n in range(2000)]
    write_records(shareable(study([arm("sft", trials)])), tmp_path / NAME)
    assert (tmp_path / NAME).stat().st_size < 2000 * 200
