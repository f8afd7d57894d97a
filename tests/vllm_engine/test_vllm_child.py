"""The engine's process: its output, its terminal, its parent; and what an error quotes of its log. Without vLLM."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from engineroom.engines.process.log import first_exception, log_variable
from engineroom.engines.vllm.child import EngineProcess
from engineroom.engines.vllm.log import ECHOES, STREAM, STREAM_NAME, vllm_log


def speak(words: str) -> None:
    print(words, flush=True)
    print("session", os.getsid(0), os.getpid(), flush=True)
    os.write(2, b"from beneath Python\n")


def test_its_words_go_to_the_log_and_its_session_is_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = EngineProcess(tmp_path / "log", target=speak, args=("hello",))
    process.start()
    process.join(60)
    said = (tmp_path / "log").read_text()
    assert process.exitcode == 0
    assert f"hello\nsession {process.pid} {process.pid}\nfrom beneath Python\n" in said
    assert capfd.readouterr() == ("", "")


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    """``spawn`` would import it as ``__mp_main__``, and fail on the process that it starts there."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import operator
            from pathlib import Path
            from engineroom.engines.vllm.child import EngineProcess
            print("once", flush=True)
            process = EngineProcess(Path({str(tmp_path / "log")!r}), target=operator.add, args=(1, 2))
            process.start()
            process.join()
            print(process.exitcode)
        """)
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert (ran.stdout, (tmp_path / "log").read_text()) == ("once\n0\n", "")


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import threading, time
        from pathlib import Path
        from engineroom.engines.vllm.child import EngineProcess
        process = EngineProcess(Path({str(tmp_path / "log")!r}), target=time.sleep, args=(600,))
        process.start()
        print(process.pid, flush=True)
        threading.Event().wait()
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        while child.num_threads() < 2:  # the second one follows the parent
            os.sched_yield()
        parent.send_signal(signal.SIGKILL)
        child.wait(timeout=30)


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (
            "(EngineCore pid=9) ERROR 11-24 07:00:00 [core.py:9] Traceback (most recent call last):\n"
            "(EngineCore pid=9) ERROR 11-24 07:00:00 [core.py:9] ValueError: no such weight\n"
            "RuntimeError: Engine core initialization failed. See root cause above.\n",
            "ValueError: no such weight",
        ),
        (
            "INFO all is well\ntorch.OutOfMemoryError: CUDA out of memory\n",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        ("RuntimeError: Engine core initialization failed.\n", ""),
        (
            "ERROR [x.py:9]     assert heads % size == 0\nERROR [x.py:9]            ^^^^^\nERROR [x.py:9] AssertionError\n",
            "AssertionError: assert heads % size == 0",
        ),
        ("AssertionError\n", "AssertionError"),
        ("WARNING: Error rates are low\nan Error\n", ""),
        ("", ""),
    ],
)
def test_the_first_exception_of_its_own_is_found(log: str, says: str) -> None:
    assert first_exception(log.splitlines(), ECHOES) == says


def test_without_an_exception_the_last_line_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(log_variable("vllm"), str(tmp_path / "logs" / "vllm.log"))
    log = vllm_log()
    assert log.last_words() == ""
    log.write("first\nlast\n\n")
    assert log.last_words() == "last"
    log.discard()
    assert log.path.read_text() == "first\nlast\n\n"  # it was asked for by name


def test_a_log_that_nobody_named_is_private_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    vllm_log().discard()
    assert list(tmp_path.iterdir()) == []  # that engine never started
    log = vllm_log()
    assert log.path.stat().st_mode & 0o077 == 0
    log.discard()
    log.discard()
    assert not log.path.exists()


def test_vllms_loggers_write_where_the_stream_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging.config

    monkeypatch.setenv(log_variable("vllm"), str(tmp_path / "log"))
    monkeypatch.setattr(STREAM, "log", vllm_log())
    handler = {"class": "logging.StreamHandler", "stream": STREAM_NAME}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"it": handler},
            "loggers": {"vllm_alike": {"handlers": ["it"], "level": "INFO", "propagate": False}},
        }
    )
    logging.getLogger("vllm_alike").info("as vLLM does")
    assert (tmp_path / "log").read_text() == "as vLLM does\n"
