"""Processes with all that they have started."""

from __future__ import annotations

_PATIENCE = 10.0


def process_trees(pids: list[int]) -> list[int]:
    """These processes and what they have started."""
    import psutil

    found: list[int] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [pid, *(child.pid for child in process.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue
    return found


def kill_trees(pids: list[int]) -> None:
    """Kills what is left of them, children included, and waits for the end."""
    import psutil

    victims: list[psutil.Process] = []
    for pid in process_trees(pids):
        try:
            victims.append(psutil.Process(pid))
            victims[-1].kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=_PATIENCE)
