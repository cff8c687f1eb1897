"""The machine that runs it: where models compute, how much memory is left, how many threads share a step."""

from __future__ import annotations

import ctypes
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # what counts memory alone does not wait for torch
    import torch

FLOAT = 4
"""Bytes of a number in single precision."""

NEVER, LARGE = 2**31 - 1, 2**20
"""Bytes of a buffer from which glibc gives it back when it is freed."""

BFLOAT16_UNITS = frozenset({"amx_bf16", "avx512_bf16", "bf16", "sve_bf16"})
"""Of processors, as torch and Linux name them."""

_CGROUP = Path("/sys/fs/cgroup")


def device() -> torch.device:
    """Where models train: the GPU where torch sees one (hide it with `CUDA_VISIBLE_DEVICES=`), else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Threads of torch in this worker, and one of BLAS: its threads only wait for each other on small matrices."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc reuse large buffers: handing them back and forth doubles a step on a CPU."""
    _set_allocator(mapped_from=NEVER)


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """For what is done seldom and takes much: its buffers are handed back, so that they leave no holes."""
    _set_allocator(mapped_from=LARGE)
    try:
        yield
    finally:
        _set_allocator(mapped_from=NEVER)


def _set_allocator(mapped_from: int) -> None:
    """Bytes from which glibc maps a buffer of its own, which goes back when it is freed; smaller ones are kept."""
    try:
        glibc = ctypes.CDLL(None)
        mallopt = glibc.mallopt
    except (OSError, AttributeError):  # not glibc
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, NEVER)
    mallopt(mmap_threshold, mapped_from)
    glibc.malloc_trim(0)  # what was kept until now


@cache
def has_bfloat16_units() -> bool:
    """Whether the processor multiplies in bfloat16; True where nobody says."""
    import torch

    try:
        asked = torch.cpu.get_capabilities()
        names = {name for name, value in asked.items() if value}
    except AttributeError:  # torch before 2.10
        info = Path("/proc/cpuinfo")
        names = set(info.read_text().split() if info.exists() else BFLOAT16_UNITS)
    return bool(names & BFLOAT16_UNITS)


@cache
def warn_of_slow_bfloat16() -> None:
    """Say, once a process, how much slower bfloat16 is on a processor without units for it."""
    if has_bfloat16_units():
        return
    import torch

    a, b = torch.ones(4, 1024, 64), torch.ones(4, 64, 256)
    ratio = _seconds(a.bfloat16(), b.bfloat16()) / _seconds(a, b)
    if ratio > 1:
        warnings.warn(
            f"train.precision='bfloat16' is about {ratio:.0f} times slower than 'float32' here: this processor has no "
            "units for it. Use train.precision='float32', or a GPU.",
            stacklevel=3,
        )


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of a matrix product, the least of several."""
    import torch

    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.bmm(a, b)
        times.append(time.perf_counter() - start)
    return min(times)


def free_bytes(device: torch.device | None = None) -> int:
    """Memory that can still be had: of a GPU, or of this machine (None, or a CPU) within its control group's limit."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_left_in_control_groups()])


def _left_in_control_groups() -> list[int]:
    """What the limits of this process' control groups (v2 or v1; containers, batch systems) leave."""
    left = []
    for folder, limit, usage in _control_groups():
        try:
            allowed, used = (folder / limit).read_text().strip(), (folder / usage).read_text().strip()
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines() if line)
        except (OSError, ValueError):
            continue
        if allowed.isdigit():  # not "max"
            reclaimable = int(statistics.get("inactive_file", statistics.get("total_inactive_file", 0)))
            left.append(max(0, int(allowed) - int(used) + reclaimable))
    return left


def _control_groups() -> list[tuple[Path, str, str]]:
    """Folders of this process' control groups and their parents, with the names of limit and usage in each."""
    v2, v1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folders = [(_CGROUP, *v2), (_CGROUP / "memory", *v1)]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(path.lstrip("/"))
        for part in [inside, *inside.parents]:
            if not controllers:
                folders.append((_CGROUP / part, *v2))
            elif "memory" in controllers.split(","):
                folders.append((_CGROUP / "memory" / part, *v1))
    return folders


def size_text(n_bytes: float) -> str:
    """A number of bytes as people write it: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} GiB"
