"""This machine: memory that is free for a model, CPU cores, NVIDIA GPUs. Read from the system, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory, in bytes.

    Attributes:
        free: what a program may still take; the page cache, which gives way, counts as free.
        limited: a control group (a container, a batch job) allows less than the machine has.
    """

    total: int
    free: int
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU; memory in bytes."""

    index: int
    name: str
    memory_total: int
    memory_free: int
    driver: str


def memory() -> Memory | None:
    """Main memory, or None if this system does not tell."""
    system = _linux_memory() or _darwin_memory()
    if system is None:
        return None
    tightest = min((m for m in _cgroup_memories(system)), key=lambda m: m.free, default=system)
    return tightest if tightest.free < system.free or tightest.total < system.total else system


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def numa_nodes() -> tuple[int, ...]:
    """The NUMA nodes that have memory; (0,) where the system does not tell."""
    try:
        text = Path("/sys/devices/system/node/has_memory").read_text(encoding="ascii")
    except OSError:
        return (0,)
    ends = [part.split("-") for part in text.strip().split(",") if part]  # such as 0-1,4
    return tuple(node for end in ends for node in range(int(end[0]), int(end[-1]) + 1)) or (0,)


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that ``nvidia-smi`` reports; none where it is missing or fails. CUDA_VISIBLE_DEVICES is not applied."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.free,driver_version",
             "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return tuple(_gpu(line) for line in done.stdout.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def _gpu(line: str) -> Gpu:
    index, name, total, free, driver = (part.strip() for part in line.split(","))
    return Gpu(int(index), name, int(total) << 20, int(free) << 20, driver)  # nvidia-smi counts in MiB


# --- memory, by system ------------------------------------------------------------------------------------------


def _linux_memory() -> Memory | None:
    """``/proc/meminfo``, in kB (proc_meminfo(5))."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = {
            name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)
        }
        return Memory(values["MemTotal"], values["MemAvailable"])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _darwin_memory() -> Memory | None:
    """``vm_stat``'s free, inactive and speculative pages."""
    if sys.platform != "darwin":
        return None
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        text = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
        counts = {
            name: rest.strip(" .") for name, _, rest in (line.partition(":") for line in text.splitlines())
        }
        free = sum(int(counts[f"Pages {kind}"]) for kind in ("free", "inactive", "speculative"))
        return Memory(os.sysconf("SC_PHYS_PAGES") * page, free * page)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def _cgroup_memories(system: Memory) -> Generator[Memory, None, None]:
    """The limits of every control group that this process is in, from the innermost out (cgroups(7))."""
    for limit_file, usage_file, stat_key, folders in (
        ("memory.max", "memory.current", "inactive_file", _cgroup_folders("")),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", _cgroup_folders("memory")),
    ):
        for folder in folders:
            limit, usage = _number(folder / limit_file), _number(folder / usage_file)
            if limit is not None and usage is not None and limit < system.total:
                held = max(0, usage - _stat(folder / "memory.stat", stat_key))
                yield Memory(limit, max(0, min(limit - held, system.free)), limited=True)


def _cgroup_folders(controller: str) -> list[Path]:
    """The process's folder in a hierarchy (``""`` is version 2's only one), and those above it."""
    root = _CGROUPS / controller if controller else _CGROUPS
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            innermost = root / path.lstrip("/")
            return [f for f in (innermost, *innermost.parents) if f == root or root in f.parents]
    return []


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # missing, or "max"
        return None


def _stat(file: Path, key: str) -> int:
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
