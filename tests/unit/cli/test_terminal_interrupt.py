"""Ctrl-C: where it breaks in, and where it waits."""

import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engineroom.cli.interrupt import Interrupts, LoadInterrupt


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_while_the_next_piece_is_waited_for_it_breaks_in() -> None:
    interrupted: list[type[BaseException]] = []

    def pieces() -> Iterator[int]:
        yield 1
        try:
            ctrl_c()
        except KeyboardInterrupt as error:
            interrupted.append(type(error))
            raise
        yield 2

    with Interrupts() as interrupts:
        assert list(interrupts.waiting_for(pieces())) == [1]
    assert interrupts.came
    assert interrupted == [KeyboardInterrupt]


def test_while_a_piece_is_shown_it_waits_for_the_next_wait() -> None:
    shown: list[int] = []
    with Interrupts() as interrupts:
        for piece in interrupts.waiting_for(iter([1, 2, 3])):
            ctrl_c()
            shown.append(piece)
        ctrl_c()  # and once more while the answer is put away
    assert shown == [1]
    assert interrupts.came


def test_without_it_every_piece_comes() -> None:
    with Interrupts() as interrupts:
        assert list(interrupts.waiting_for(iter([1, 2]))) == [1, 2]
    assert not interrupts.came


def test_afterwards_it_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) is before


def load(then: Exception | None = None, *, interrupted: bool = True, check: bool = False) -> str:
    """Loading, while a library swallows Ctrl-C, as torch does when it imports numpy."""
    with LoadInterrupt() as interrupt:
        if interrupted:
            with contextlib.suppress(BaseException):
                ctrl_c()
        if check:
            interrupt.check()
            return "went on"
        if then is not None:
            raise then
    return "loaded"


@pytest.mark.parametrize("check", [True, False])
def test_one_that_a_library_swallowed_ends_the_loading_all_the_same(check: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(check=check)


def import_swallowing(name: str) -> None:
    """An import of a module that is new, after Ctrl-C was swallowed."""
    with LoadInterrupt():
        with contextlib.suppress(BaseException):
            ctrl_c()
        importlib.import_module(name)


def test_one_that_a_library_swallowed_ends_the_next_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "never_imported.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    finders = [*sys.meta_path]
    with pytest.raises(KeyboardInterrupt):
        import_swallowing("never_imported")
    assert "never_imported" not in sys.modules
    assert sys.meta_path == finders


def test_what_went_wrong_because_of_it_is_not_what_is_told() -> None:
    with pytest.raises(KeyboardInterrupt):
        load(ImportError("numpy is only half there"))


def test_without_it_loading_is_as_ever() -> None:
    assert load(interrupted=False) == "loaded"
    assert load(interrupted=False, check=True) == "went on"
    with pytest.raises(ImportError):
        load(ImportError(), interrupted=False)
