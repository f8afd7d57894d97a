"""Starts SGLang's server: ``python launch.py``, with one line of JSON on standard input, which then stays open.

Standard input is the lifeline: when its other end is gone, however that went, the whole process group is killed.
SGLang spawns its scheduler and detokenizer, and Python's spawn runs this file again in each (as ``__mp_main__``), before
SGLang is imported there: so the lines at the end of this file prepare every process of the server.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import runpy
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

SETTINGS = "ENGINEROOM_SGLANG"
"""The environment variable by which the processes of one server know what to prepare."""

REFUSED = "engineroom: unknown server arguments: "
"""What the log holds when an option is not SGLang's; a JSON list of [name, nearest known name or null] follows."""

HELD = "engineroom: the port is held"
"""Before the log says so, whoever answers at the port is somebody else."""

_HERE = Path(__file__).resolve().parent


def prepare() -> None:
    """Makes this process ready to import SGLang."""
    settings: dict[str, Any] = json.loads(os.environ[SETTINGS])
    if str(_HERE) in sys.path:
        sys.path.remove(str(_HERE))  # this folder's names are nobody's business
    if settings["device"] == "cpu":
        runpy.run_path(str(_HERE.parent / "cpu_stand_ins" / "install.py"))["install"]()
    runpy.run_path(str(_HERE / "contract.py"))["register"](settings)


def follow_parent() -> None:
    """Waits for the end of standard input, and ends everything."""
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def follow_children() -> None:
    """Ends the server when one of its processes has failed. SGLang looks for that itself, every few seconds."""
    seen: set[multiprocessing.process.BaseProcess] = set()
    while not any(child.exitcode for child in seen):
        seen |= set(multiprocessing.active_children())
        living = [child.sentinel for child in seen if child.exitcode is None]
        if living:
            multiprocessing.connection.wait(living, timeout=0.5)
        else:
            time.sleep(0.5)
    print("engineroom: a process of SGLang's server has failed", flush=True)
    for child in seen:
        child.kill()
    os._exit(1)


def read_request() -> dict[str, Any]:
    """The first line of standard input, and not a byte more."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(1)
        line += byte
    return json.loads(line)


def main() -> None:
    request = read_request()
    os.environ[SETTINGS] = json.dumps(request["settings"])
    for follow in (follow_parent, follow_children):
        threading.Thread(target=follow, name=follow.__name__, daemon=True).start()
    with hold_port(request["options"]["host"], request["options"]["port"]):
        serve(request["options"])


def serve(options: dict[str, Any]) -> None:
    prepare()
    server_args: Any = importlib.import_module("sglang.srt.server_args")
    refuse_unknown(options, server_args.ServerArgs)
    importlib.import_module("sglang.srt.plugins").load_plugins()
    importlib.import_module("sglang.launch_server").run_server(server_args.ServerArgs(**options))


def hold_port(host: str, port: int) -> socket.socket:
    """Bound and not listening: the system gives the port to nobody else, and SGLang binds it too when the model is loaded,
    with SO_REUSEADDR as here (socket(7)).

    Raises:
        OSError: it was taken meanwhile.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, port))
    print(HELD, flush=True)
    return holder


def refuse_unknown(options: dict[str, Any], server_args: Any) -> None:
    import difflib

    known = [name for name in server_args.__annotations__ if not name.startswith("_")]
    unknown = [
        [name, next(iter(difflib.get_close_matches(name, known, n=1)), None)]
        for name in options
        if name not in known
    ]
    if unknown:
        print(REFUSED + json.dumps(unknown), flush=True)
        os._exit(2)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    prepare()
