"""Errors that mean that a device failed, its driver, or what ran on it.

After most of them every further call of CUDA in the process fails as well, so nothing here makes
one.
"""

from __future__ import annotations

from sweeper.execution.fault_texts import KINDS, DeviceFault, fault_of_code, fault_of_text
from sweeper.execution.worker.error_chain import error_chain


def device_fault(error: BaseException | None) -> DeviceFault | None:
    """Return the fault of a device that an error, or one that led to it, reports.

    Of several the cause of the others counts: a failed assertion in a kernel breaks the connection
    to the other devices.
    """
    # Other types may quote any text.
    reported = [_reported(one) for one in error_chain(error) if isinstance(one, RuntimeError)]
    found = [fault for fault in reported if fault is not None]
    return min(found, key=lambda fault: KINDS.index(fault.kind), default=None)


def _reported(error: RuntimeError) -> DeviceFault | None:
    text = str(error)
    if kind := fault_of_code(getattr(error, "error_code", None)):
        return DeviceFault(kind, (text.strip().splitlines() or [type(error).__name__])[0])
    return fault_of_text(text)
