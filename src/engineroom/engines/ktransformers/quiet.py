"""kt-kernel prints from C++, whatever Python's ``sys.stdout`` is: its lines go to the log instead."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import tempfile
import threading
from collections.abc import Generator

_log = logging.getLogger("engineroom.kt_kernel")
_STDOUT = 1
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def quiet() -> Generator[None, None, None]:
    """What is written to the process's standard output meanwhile is logged, at level DEBUG, by ``engineroom.kt_kernel``.

    For the calls that make and unmake kernels: milliseconds each. The file descriptor belongs to the whole process, so
    what another thread prints at that moment goes to the log, too. Computing prints nothing, and needs none of this.
    """
    flush = ctypes.CDLL(None).fflush
    with _one_at_a_time, tempfile.TemporaryFile() as file:
        flush(None)
        try:
            saved = os.dup(_STDOUT)
        except OSError:  # the process has none
            yield
            return
        os.dup2(file.fileno(), _STDOUT)
        try:
            yield
        finally:
            flush(None)
            os.dup2(saved, _STDOUT)
            os.close(saved)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                _log.debug("%s", line)
