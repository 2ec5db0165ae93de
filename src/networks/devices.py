"""The device that networks run on, and how: layout, precision, determinism."""

import ctypes
import platform
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from src.recipe import Member
from src.terminal.errors import UserError

# of images and weights: the faster one for convolutions, on CPUs and GPUs
LAYOUT = torch.channels_last
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's numbers of these settings


def choose_device(name: str) -> torch.device:
    """The device for `--device`: "auto" takes CUDA where there is one; asking for CUDA where
    there is none is an error.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe(device: torch.device) -> str:
    """What a device is called by its maker, a CPU with the threads in use: what a time is worth
    depends on it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [
        line.partition(":")[2].strip()
        for line in _cpuinfo().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def room(device: torch.device) -> int:
    """Bytes that data may take on a device: half of what is free on a GPU; none on a CPU, which
    reads them from disk as fast.
    """
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0


def set_up_torch(threads: int) -> None:
    """The CPU threads to use, and the same bytes for the same task on the same machine."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # nothing reads such memory, and filling it costs a tenth of training
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


def keep_memory() -> None:
    """Let this process keep memory that it frees, on Linux: training asks for the same again in
    every step, and a page that comes anew from the system costs more than many an operation.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def autocast(member: Member, device: torch.device) -> AbstractContextManager[None]:
    """The precision of the member's forward passes: bfloat16 where asked for, or where "auto"
    finds hardware for it.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(member, device))


def in_bfloat16(member: Member, device: torch.device) -> bool:
    return member.precision == "bfloat16" or (member.precision == "auto" and _has_bfloat16(device))


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo().split()))


def _cpuinfo() -> str:
    """What Linux says of the CPU; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""
