"""This machine's memory and GPUs, on systems that are written into a folder."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from engineroom import machine

SYSTEM = machine.Memory(16 << 30, 8 << 30)


def test_this_machine_tells() -> None:
    memory = machine.memory()
    assert memory is not None
    assert 0 < memory.free <= memory.total
    assert machine.cores() >= 1


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group ``/job/step`` below a root, both empty."""
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    monkeypatch.setattr(machine, "_linux_memory", lambda: SYSTEM)
    monkeypatch.setattr(
        machine, "_cgroup_folders", lambda controller: [] if controller else [inner, inner.parent, tmp_path]
    )
    return inner


def limit(folder: Path, limit: str, usage: int, cache: int = 0) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")


def test_without_a_limit_the_system_counts(groups: Path) -> None:
    limit(groups, "max", 5)
    assert machine.memory() == SYSTEM


def test_a_control_groups_limit_counts_and_its_page_cache_gives_way(groups: Path) -> None:
    limit(groups, str(4 << 30), 3 << 30, cache=1 << 30)
    assert machine.memory() == machine.Memory(4 << 30, 2 << 30, limited=True)


def test_an_outer_group_may_be_tighter(groups: Path) -> None:
    limit(groups, str(4 << 30), 0)
    limit(groups.parent, str(6 << 30), 5 << 30)
    assert machine.memory() == machine.Memory(6 << 30, 1 << 30, limited=True)


def test_a_group_can_not_give_more_than_there_is(groups: Path) -> None:
    limit(groups, str(12 << 30), 0)
    memory = machine.memory()
    assert memory is not None
    assert memory.free == SYSTEM.free


def test_gpus_as_nvidia_smi_reports_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "0, NVIDIA H100 80GB HBM3, 81559, 81000, 570.86.15\n1, NVIDIA H100 80GB HBM3, 81559, 5, 570.86.15\n"
    )

    def run(*args: Any, **kwargs: Any) -> Any:
        return subprocess.CompletedProcess(args, 0, text, "")

    monkeypatch.setattr(subprocess, "run", run)
    machine.gpus.cache_clear()
    first, second = machine.gpus()
    machine.gpus.cache_clear()
    assert (first.name, first.memory_total, first.driver) == (
        "NVIDIA H100 80GB HBM3",
        81559 << 20,
        "570.86.15",
    )
    assert second.memory_free == 5 << 20


def test_a_failing_nvidia_smi_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(subprocess, "run", run)
    machine.gpus.cache_clear()
    assert machine.gpus() == ()
    machine.gpus.cache_clear()
