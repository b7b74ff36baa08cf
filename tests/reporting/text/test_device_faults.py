"""Devices that failed, in the report, in the terminal, and as JSON."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sweeper.records import DeviceFault, FailureKind
from sweeper.reporting.console import show
from sweeper.reporting.json_output import study_json
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from sweeper.reporting.tables.trials import StatusView
from sweeper.reporting.text.device_faults import TITLE, device_lines
from tests.support.example_study import example_study

ECC = "CUDA error: uncorrectable ECC error encountered"


def fault(
    job: str, kind: FailureKind, *devices: str, message: str = ECC, aside: tuple[str, ...] = ()
) -> DeviceFault:
    return DeviceFault(
        time=1.0, job=job, kind=kind, devices=devices, message=message, set_aside=aside
    )


FAULTS = (
    fault("gkd #0", "faulty_device", "cuda:0"),
    fault("the preparation (teacher)", "communication", "cuda:0", "cuda:1", message="NCCL error."),
    fault("gkd #0", "faulty_device", "cuda:0", aside=("cuda:0",)),
)


def test_there_is_a_line_for_each_device() -> None:
    assert device_lines(FAULTS) == [
        "cuda:0: 3 faults (faulty device and communication between devices) in gkd #0 and the"
        f" preparation (teacher); set aside. The last: {ECC}",
        "cuda:1: 1 fault (communication between devices) in the preparation (teacher). The last:"
        " NCCL error",
    ]
    again = (*FAULTS, fault("sft #1", "driver", "cuda:0", aside=("cuda:0",)))
    assert "set aside in 2 runs" in device_lines(again)[0]
    assert device_lines(()) == []


def test_reports_have_them_and_are_silent_without(tmp_path: Path) -> None:
    hostile = fault("sft #1", "failed_kernel", "cuda:2", message="\x1b[31m*red* | <b>\ncuda")
    plain = example_study()
    for record in (plain, plain.model_copy(update={"device_faults": (*FAULTS, hostile)})):
        page = ReportData.of(record)
        [report, *_] = write_report(page, tmp_path / str(len(record.device_faults)))
        terminal = io.StringIO()
        console = Console(file=terminal, width=200)
        show_study(page, console)
        status = io.StringIO()
        show(StatusView(record), Console(file=status, width=200))
        text = report.read_text(encoding="utf-8")
        failed = bool(record.device_faults)
        assert (f"### {TITLE}" in text) == failed
        assert (TITLE in terminal.getvalue(), TITLE in status.getvalue()) == (failed, failed)
        assert (ECC in text, ECC in terminal.getvalue()) == (failed, failed)
        assert "\x1b" not in text + terminal.getvalue()
        assert "<b>" not in text
        assert len(study_json(page)["device_faults"]) == len(record.device_faults)


def test_a_record_without_faults_is_as_those_of_earlier_versions() -> None:
    record = example_study()
    assert "device_faults" not in record.model_dump()
    assert type(record).model_validate_json(record.model_dump_json()) == record
