"""What libraries and drivers really say when a device fails, and texts that only look like it.

Each text is quoted from the issue, or the source file, that stands beside it.
"""

from __future__ import annotations

import pytest

from sweeper.execution.fault_texts import failed_assertion, fault_of_code, fault_of_text

ASYNCHRONOUS = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so"
    " the stacktrace"
    " below might be incorrect.\nFor debugging consider passing"
    " CUDA_LAUNCH_BLOCKING=1\nCompile with"
    " `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
"""What torch adds to each error of CUDA's."""

FAULTS = (
    # A kernel's assertion: the input or the code.
    (
        "device_assert",
        "karpathy/nanoGPT#470",
        f"CUDA error: device-side assert triggered{ASYNCHRONOUS}",
    ),
    (
        "device_assert",
        "cutorch#705",
        "cuda runtime error (59) : device-side assert triggered at"
        " /home/torch/cutorch/lib/THC/THCTensorCopy.cu:100",
    ),
    (
        "device_assert",
        "facebookresearch/blt#102",
        "Triton Error [CUDA]: device-side assert triggered",
    ),
    (
        "device_assert",
        "c10/cuda/CUDADeviceAssertionHost.cpp",
        "CUDA device-side assertion failures were found on GPU #0!\nAssertion failure 0",
    ),
    (
        "device_assert",
        "sglang#271",
        "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG 1"
        " Rank 1] Process group watchdog thread terminated with"
        f" exception: CUDA error: device-side assert triggered{ASYNCHRONOUS}",
    ),
    # Hardware, or a device that is out of reach.
    (
        "faulty_device",
        "zai-org/ChatGLM3#681",
        f"CUDA error: uncorrectable ECC error encountered{ASYNCHRONOUS}",
    ),
    (
        "faulty_device",
        "ostris/ai-toolkit#470",
        "CUDA error: uncorrectable ECC error encountered Search for `cudaErrorECCUncorrectable' in"
        " https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more"
        " information.",
    ),
    (
        "faulty_device",
        "DeepFaceLab_Linux#89",
        "failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC"
        " error encountered",
    ),
    (
        "faulty_device",
        "MIC-DKFZ/nnUNet#1519",
        "CUDA error: uncorrectable NVLink error detected during the execution",
    ),
    (
        "faulty_device",
        "cudaErrorContained's text",
        "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware"
        f" error{ASYNCHRONOUS}",
    ),
    (
        "faulty_device",
        "cositools/cosipy#631",
        f"CUDA error: CUDA-capable device(s) is/are busy or unavailable{ASYNCHRONOUS}",
    ),
    (
        "faulty_device",
        "detectron2#2580",
        "CUDA error: all CUDA-capable devices are busy or unavailable",
    ),
    ("faulty_device", "darknet#86", "CUDA Error: no CUDA-capable device is detected"),
    ("faulty_device", "CoMoSVC#6", "No CUDA GPUs are available"),
    ("faulty_device", "PyDeepFakeDet#1", f"CUDA error: invalid device ordinal{ASYNCHRONOUS}"),
    (
        "faulty_device",
        "pytorch#49327",
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing"
        " env variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to"
        " be zero.",
    ),
    (
        "faulty_device",
        "THUDM/slime#1305",
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 999"
        " 'unknown error'",
    ),
    (
        "faulty_device",
        "OWOD#81",
        "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost. Reboot the system"
        " to recover this GPU",
    ),
    (
        "faulty_device",
        "rwth-i6/returnn#1486",
        "Unable to determine the device handle for GPU0000:03:00.0: Unknown Error",
    ),
    (
        "faulty_device",
        "the kernel's log, as dmesg shows it",
        "NVRM: Xid (PCI:0000:65:00): 79, pid=1234, GPU has fallen off the bus.",
    ),
    (
        "faulty_device",
        "nvidia-smi's source, NVML_ERROR_RESET_REQUIRED",
        "The GPU requires a reset before it can be used again",
    ),
    # The driver, which fits neither torch nor the device.
    (
        "driver",
        "nagadomi/nunif#702",
        "CUDA error: CUDA driver version is insufficient for CUDA runtime version",
    ),
    (
        "driver",
        "Fooocus#1313",
        "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
        " driver by downloading and installing a new version",
    ),
    (
        "driver",
        "c10/cuda/CUDAFunctions.cpp",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and"
        " installed a driver from http://www.nvidia.com/Download/index.aspx",
    ),
    (
        "failed_kernel",
        "GeneFacePlusPlus#192",
        f"CUDA error: the provided PTX was compiled with an unsupported toolchain.{ASYNCHRONOUS}",
    ),
    (
        "failed_kernel",
        "detectron2#235",
        f"CUDA error: no kernel image is available for execution on the device{ASYNCHRONOUS}",
    ),
    (
        "driver",
        "microsoft/lisa#2823",
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling"
        " NumCudaDevices() that might have already set an error? Error 802: system not yet"
        " initialized",
    ),
    (
        "driver",
        "lyulyul/shine-cluster#30",
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124",
    ),
    # A kernel that failed: the device, or the code.
    (
        "failed_kernel",
        "THUDM/slime#1297",
        "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'"
        " in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more"
        f" information.{ASYNCHRONOUS}",
    ),
    ("failed_kernel", "pytorch#74235", f"CUDA error: unspecified launch failure{ASYNCHRONOUS}"),
    (
        "failed_kernel",
        "mmdetection#2342",
        "CUDA error: misaligned address (insert_events at"
        " /pytorch/c10/cuda/CUDACachingAllocator.cpp"
        ":564)",
    ),
    (
        "failed_kernel",
        "unbiased-teacher#80",
        f"CUDA error: the launch timed out and was terminated{ASYNCHRONOUS}",
    ),
    (
        "failed_kernel",
        "bitsandbytes#120",
        "Error an illegal memory access was encountered at line 118 in file"
        " /mmfs1/gscratch/zlab/timdettmers/git/bitsandbytes/csrc/ops.cu",
    ),
    (
        "failed_kernel",
        "bitsandbytes#553",
        "Error invalid program counter at line 74 in file /home/tim/git/bitsandbytes/csrc/ops.cu",
    ),
    (
        "failed_kernel",
        "TensorRT-LLM#5390",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle,"
        " opa, opb, m,"
        " n, k, &falpha, a, CUDA_R_16BF, lda, b, CUDA_R_16BF, ldb, &fbeta, c, CUDA_R_16BF, ldc,"
        " compute_type, CUBLAS_GEMM_DEFAULT_TENSOR_OP)`",
    ),
    ("failed_kernel", "TATT#18", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ("failed_kernel", "Fooocus#3275", "cuDNN error: CUDNN_STATUS_MAPPING_ERROR"),
    (
        "failed_kernel",
        "Fuser#4970",
        "CUDA_ERROR_MISALIGNED_ADDRESS failed with error misaligned address",
    ),
    (
        "failed_kernel",
        "rocm-arch/python-pytorch-rocm#41",
        "HIP error: hipErrorLaunchFailure",
    ),
    (
        "failed_kernel",
        "pytorch#109929",
        "Memory access fault by GPU node-1 (Agent handle: 0x55eb9b596570) on address"
        " 0x7f66960b2000."
        " Reason: Page not present or supervisor privilege.",
    ),
    (
        "failed_kernel",
        "vllm#4108",
        "[E ProcessGroupNCCL.cpp:916] [Rank 0] NCCL watchdog thread terminated with exception: CUDA"
        f" error: an illegal memory access was encountered{ASYNCHRONOUS}",
    ),
    # The connection between devices.
    (
        "communication",
        "hiyouga/LlamaFactory#7396",
        "[rank0]:[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught"
        " collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168,"
        " NumelOut=466119168, Timeout(ms)=600000) ran for 600060 milliseconds before timing out.",
    ),
    (
        "communication",
        "sglang#1693",
        "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG 3"
        " Rank 5] Process group watchdog thread terminated with exception: [Rank 5] Watchdog caught"
        " collective operation timeout: WorkNCCL(SeqNum=9141, OpType=_ALLGATHER_BASE)",
    ),
    (
        "communication",
        "facebookresearch/dinov2#447",
        "[rank0]:[F ProcessGroupNCCL.cpp:1169] [PG 0 Rank 0] [PG 0 Rank 0] ProcessGroupNCCL's"
        " watchdog got stuck for 600 seconds without making progress in monitoring enqueued"
        " collectives.",
    ),
    (
        "communication",
        "NVIDIA/nccl#2076",
        "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, remote"
        " process exited"
        " or there was a network error, NCCL version 2.21.5\nncclRemoteError: A call"
        " failed possibly"
        " due to a network error or a remote process exiting prematurely.\nLast error:\n"
        "socketProgressOpt: Call to recv from 172....<33759> failed : Connection reset by peer",
    ),
    (
        "communication",
        "NVIDIA/nccl#1514",
        "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1275, internal error,"
        " NCCL version 2.14.3\nncclInternalError: Internal check failed.\nLast error:\nNet :"
        " Connection closed by remote peer user<50260>",
    ),
    (
        "communication",
        "pytorch#177472",
        "NCCL error in: /var/lib/jenkins/workspace/torch/csrc/distributed/c10d/NCCLUtils.cpp:93,"
        " unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.29.3 \n"
        "ncclUnhandledCudaError: Call to CUDA function failed. \nLast error: \nFailed to"
        " bind NVLink"
        " SHARP (NVLS) Multicast memory of size 2097152 : CUDA error 401 'the operation cannot be"
        " performed in the present state'.",
    ),
)

OTHERS = (
    (
        "memory",
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
    ),
    ("memory", f"CUDA error: out of memory{ASYNCHRONOUS}"),
    ("memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("memory", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ("memory", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    (
        "memory",
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of"
        " memory'",
    ),
    (
        "memory",
        "NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled cuda error, NCCL version 2.20.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nFailed to CUDA calloc"
        " async 4 bytes",
    ),
    ("arguments", f"CUDA error: invalid argument{ASYNCHRONOUS}"),
    ("arguments", "CUDA error: invalid configuration argument"),
    ("arguments", "CUDA error: too many resources requested for launch"),
    (
        "arguments",
        "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa)`",
    ),
    (
        "arguments",
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmStridedBatchedEx`",
    ),
    (
        "arguments",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a"
        " non-contiguous input.",
    ),
    (
        "arguments",
        "NCCL error in: ProcessGroupNCCL.cpp:1287, invalid usage, NCCL version 2.17.1\n"
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
        "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
    ),
    (
        "code",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and"
        " cpu!",
    ),
    ("code", "CUDA error: operation not permitted when stream is capturing"),
    (
        "code",
        "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must"
        " use the 'spawn' start method",
    ),
    (
        "code",
        "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
    ),
    ("code", "Torch not compiled with CUDA enabled"),
    ("code", "Triton Error [CUDA]: invalid argument"),
    ("code", "out of resource: shared memory, Required: 147456, Hardware limit: 101376"),
    ("code", "probability tensor contains either `inf`, `nan` or element < 0"),
    ("code", "The size of tensor a (4) must match the size of tensor b (8) at dimension 1"),
    (
        "a hint of torch's own",
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
    ),
    (
        "network",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
        " [127.0.0.1]:49830",
    ),
    ("words", "the assistant explains CUDA, ECC, NCCL and why a GPU is expensive"),
)


def test_enough_real_texts_are_known() -> None:
    assert len({text for _, _, text in FAULTS}) >= 40
    assert {kind for kind, _, _ in FAULTS} == {
        "device_assert",
        "driver",
        "faulty_device",
        "failed_kernel",
        "communication",
    }


@pytest.mark.parametrize(("kind", "source", "text"), FAULTS)
def test_a_real_text_has_its_kind_and_shows_the_line_of_it(
    kind: str, source: str, text: str
) -> None:
    fault = fault_of_text(text)
    assert fault is not None, source
    assert fault.kind == kind, source
    assert fault.line
    assert fault.line in text
    assert "\n" not in fault.line


@pytest.mark.parametrize(("why", "text"), OTHERS)
def test_a_text_that_only_looks_like_a_fault_is_none(why: str, text: str) -> None:
    assert fault_of_text(text) is None, why


@pytest.mark.parametrize(("kind", "source", "text"), FAULTS)
def test_it_is_found_among_the_other_lines_of_a_log(kind: str, source: str, text: str) -> None:
    log = f'Loading weights\n{text}\n  File "train.py", line 3, in step\n'
    fault = fault_of_text(log)
    assert fault is not None
    assert fault.kind == kind, source


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (710, "device_assert"),
        (214, "faulty_device"),
        (46, "faulty_device"),
        (700, "failed_kernel"),
        (719, "failed_kernel"),
        (35, "driver"),
        (2, None),
        (1, None),
        (701, None),
        (None, None),
        ("700", None),
    ],
)
def test_codes_have_kinds(code: object, kind: str | None) -> None:
    assert fault_of_code(code) == kind


INDEXING = (
    "../aten/src/ATen/native/cuda/Indexing.cu:1146: indexSelectLargeIndex: block:"
    " [336,0,0], thread:"
    " [{thread},0,0] Assertion `srcIndex < srcSelectDimSize` failed."
)
"""ChatGLM's qlora-chinese-LLM#3."""


@pytest.mark.parametrize(
    ("log", "assertion"),
    [
        ("\n".join(INDEXING.format(thread=n) for n in range(3)), "srcIndex < srcSelectDimSize"),
        (
            "C:\\cb\\pytorch_1000000000000\\work\\aten\\src\\ATen\\native\\cuda\\Indexing.cu:1146:"
            " block: [15,0,0], thread: [64,0,0] Assertion `srcIndex < srcSelectDimSize` failed.",
            "srcIndex < srcSelectDimSize",
        ),
        (
            "a line\n/pytorch/aten/src/ATen/native/cuda/TensorCompare.cu:110:"
            " _assert_async_cuda_kernel: block: [0,0,0], thread: [0,0,0] Assertion `probability"
            " tensor contains either `inf`, `nan` or element < 0` failed.\nTraceback",
            "probability tensor contains either `inf`, `nan` or element < 0",
        ),
        ("python: a.c:12: main: Assertion `x > 0' failed.", None),
        ("", None),
    ],
)
def test_the_assertion_is_read_from_what_the_kernel_printed(
    log: str, assertion: str | None
) -> None:
    fault = failed_assertion(log)
    assert (fault.line if fault else None) == (
        f"assertion failed on the device: {assertion}" if assertion else None
    )
    if fault is not None:
        diverged = "probability" in fault.line
        assert fault.kind == ("diverged" if diverged else "device_assert")
