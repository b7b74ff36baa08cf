"""What CUDA, HIP, their libraries and NCCL say when memory runs out or a device fails.

The texts are those of torch, of the runtimes and of ``nvidia-smi``. They tell an error apart from
others of its type, and what a process printed before it died without an outcome.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sweeper.records import FailureKind

OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            # CUDA, HIP, MPS, XPU, NCCL; drivers and runtimes.
            r"out[ _]?of[ _]?((device|host)[ _]?)?memory",
            r"cudaErrorMemoryAllocation",
            # Libraries that allocate for themselves; a handle takes memory, too.
            r"(cublas|cusparse|cusolver|cufft|curand|hipblas|rocblas|miopen|cudnn)\w*"
            r"(alloc(ation)?_?failed|memory_error|not_initialized|insufficient_resources)",
            r"cudnn_status_internal_error\b",
            r"failed to (cuda )?(host )?[cm]?alloc\b",
            r"ur_result_error_out_of_resources",
            # Torch asks the driver how much is left, which fails when nothing is.
            r"nvml_success == r INTERNAL ASSERT FAILED",
            r"invalid buffer size: [\d.]+ [kmgt]i?b",
            # Main memory.
            r"(can't|cannot|could not|failed to|unable to) allocate (\w+ )?(memory|\d)",
            r"(not enough|insufficient) (\w+ ){0,2}memory",
            r"memory allocation (of \d+ bytes )?failed",
            r"std::bad_alloc",
            r"bad allocation",
            # A thread's stack finds no room, as below a limit of memory.
            r"can't start new thread",
        )
    ),
    re.IGNORECASE,
)
"""Text of an error that means that memory ran out, of a device or of the machine."""


NO_DISTRIBUTION = "probability tensor contains either `inf`, `nan`"
"""Message of torch when a model that has diverged is sampled from; on a GPU it is an assertion in a
kernel."""


class DeviceFault(NamedTuple):
    """Fault of a device, its driver or its work, as an error reports it."""

    kind: FailureKind
    line: str
    """Line of the error's text that shows the kind."""


def _text(*own: str, said: Sequence[str] = (), named: Sequence[str] = ()) -> re.Pattern[str]:
    """Return the pattern of a kind of fault.

    Args:
        own: Patterns that no other text has.
        said: Texts of CUDA's and HIP's codes, which count where a runtime reports them.
        named: Names of these codes after ``cudaError`` and ``hipError``, without ``CUDA_ERROR_``.
    """
    parts = list(own)
    if said:
        texts = "|".join(said)
        # In the words of torch, Triton, NCCL and bitsandbytes.
        parts.append(
            r"\b(?:cuda|hip)(?: (?:driver|runtime|kernel))? (?:error|failure)\b"
            rf"[^\n]{{0,300}}?(?:{texts})"
        )
        parts.append(rf"\btriton error \[(?:cuda|hip)\]:\s*(?:{texts})")
        parts.append(rf"^error (?:{texts}) at line \d+ in file\b")
    parts += [rf"\b(?:cuda|hip)error{name}\b" for name in named]
    return re.compile("|".join(parts), re.IGNORECASE | re.MULTILINE)


_PATTERNS: Mapping[FailureKind, re.Pattern[str]] = {
    "device_assert": _text(
        r"CUDA device-side assertion failures were found",
        r"\bCUDA_ERROR_ASSERT\b",
        said=("device-side assert triggered",),
        named=("Assert",),
    ),
    "driver": _text(
        r"CUDA driver version is insufficient for CUDA runtime version",
        r"NVIDIA driver on your system is too old",
        r"Found no NVIDIA driver on your system",
        r"\berror 80[234]\b",
        r"driver/library version mismatch",
        said=(
            "system not yet initialized",
            "system has unsupported display driver / cuda driver combination",
            "forward compatibility was attempted on non supported HW",
        ),
        named=(
            "InsufficientDriver",
            "SystemNotReady",
            "SystemDriverMismatch",
            "CompatNotSupportedOnDevice",
        ),
    ),
    "faulty_device": _text(
        r"uncorrectable (?:ECC|NVLink) error",
        r"CUDA-capable devices?(?:\(s\) is/are| are) busy or unavailable",
        r"no (?:CUDA|ROCm)-capable device is detected",
        r"no (?:CUDA|HIP) GPUs are available",
        r"(?:CUDA|HIP) unknown error - this may be due to",
        r"invalid access of peer GPU memory over nvlink or a hardware error",
        r"\bGPU is lost\b",
        r"fallen off the bus",
        r"GPU requires (?:a )?reset",
        r"unable to determine the device handle for GPU",
        r"\bNVRM: Xid\b",
        r"\bCUDA_ERROR_(?:ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|CONTAINED|NO_DEVICE|UNKNOWN"
        r"|DEVICE_UNAVAILABLE|INVALID_DEVICE)\b",
        said=("unknown error", "invalid device ordinal"),
        named=(
            "ECCUncorrectable",
            "ECCNotCorrectable",
            "NvlinkUncorrectable",
            "Contained",
            "DevicesUnavailable",
            "NoDevice",
            "InvalidDevice",
            "Unknown",
        ),
    ),
    # A package without code for the device may be one that a single arm uses.
    "failed_kernel": _text(
        r"no kernel image is available for execution on the device",
        r"provided PTX was compiled with an unsupported toolchain",
        r"\b(?:cublas|cudnn|cusolver|cusparse|hipblas|rocblas|miopen)_?status_?"
        r"(?:execution_failed|mapping_error)",
        r"\b(?:cublas|cusolver|cusparse|hipblas)_status_internal_error\b",
        r"\bcufft_exec_failed\b",
        r"memory access fault by GPU node",
        r"\bCUDA_ERROR_(?:ILLEGAL_ADDRESS|MISALIGNED_ADDRESS|LAUNCH_FAILED|LAUNCH_TIMEOUT"
        r"|ILLEGAL_INSTRUCTION|INVALID_ADDRESS_SPACE|INVALID_PC|HARDWARE_STACK_ERROR)\b",
        said=(
            "an illegal memory access was encountered",
            "misaligned address",
            "unspecified launch failure",
            "the launch timed out and was terminated",
            "an illegal instruction was encountered",
            "operation not supported on global/shared address space",
            "invalid program counter",
            "hardware stack error",
            "invalid device function",
        ),
        named=(
            "IllegalAddress",
            "MisalignedAddress",
            "LaunchFailure",
            "LaunchTimeout",
            "LaunchTimeOut",
            "IllegalInstruction",
            "InvalidAddressSpace",
            "InvalidPc",
            "HardwareStackError",
            "InvalidDeviceFunction",
            "NoKernelImageForDevice",
            "NoBinaryForGpu",
            "UnsupportedPtxVersion",
        ),
    ),
    "communication": _text(
        # Not an invalid usage or argument, which are the caller's.
        r"\bnccl(?:UnhandledCuda|System|Internal|Remote)Error\b",
        r"\bNCCL error\b[^\n]*(?:unhandled (?:cuda|system) error|internal error"
        r"|remote process exited)",
        r"caught collective operation timeout",
        r"(?:NCCL|process group) watchdog thread terminated with exception",
        r"ProcessGroupNCCL's watchdog got stuck",
        r"NCCL communicator was aborted",
        r"NCCL Operation\b[^\n]*\btimed out",
    ),
}
"""Texts of each kind of fault; of several in an error the first kind is the cause of the others."""

KINDS: tuple[FailureKind, ...] = tuple(_PATTERNS)
"""Kinds of faults, causes before consequences."""

_CODES: Mapping[FailureKind, tuple[int, ...]] = {
    "device_assert": (710,),
    "driver": (35, 802, 803, 804),
    "faulty_device": (46, 100, 101, 214, 220, 226, 999),
    "failed_kernel": (98, 209, 222, 700, 702, 714, 715, 716, 717, 718, 719),
}
"""Codes of ``cudaError_t``, in the order of its names above; HIP's are the same."""
_KIND_OF_CODE = {code: kind for kind, codes in _CODES.items() for code in codes}

_ASSERTION = re.compile(
    r"^.*block: \[\d+,\d+,\d+\], thread: \[\d+,\d+,\d+\] Assertion `(.+)` failed", re.MULTILINE
)
"""Line that a kernel prints for each thread whose assertion failed."""


def fault_of_code(code: object) -> FailureKind | None:
    """Return the kind of fault that a code of CUDA's runtime stands for."""
    return _KIND_OF_CODE.get(code) if isinstance(code, int) else None


def fault_of_text(text: str) -> DeviceFault | None:
    """Return the fault that an error's text reports; None of one that means something else."""
    if OUT_OF_MEMORY.search(text):
        return None
    for kind, pattern in _PATTERNS.items():
        if match := pattern.search(text):
            start = text.rfind("\n", 0, match.start()) + 1
            return DeviceFault(kind, text[start:].split("\n", 1)[0].strip())
    return None


def failed_assertion(log: str) -> DeviceFault | None:
    """Return the last assertion that failed in a kernel, as the kernel's process printed it."""
    found = _ASSERTION.findall(log)
    if not found:
        return None
    kind: FailureKind = "diverged" if NO_DISTRIBUTION in found[-1] else "device_assert"
    return DeviceFault(kind, f"assertion failed on the device: {found[-1]}")
