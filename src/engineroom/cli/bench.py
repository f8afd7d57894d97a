"""``engineroom bench``: how fast an engine or a server answers, alone and under load."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import RED, paint, print_json, size
from engineroom.cli.loading import open_model, print_note
from engineroom.cli.serving import (
    ApiKeyOption,
    ModelOption,
    UrlOption,
    named_server,
    refuse_settings_of_server,
)
from engineroom.errors import ArgumentError

if TYPE_CHECKING:
    from engineroom.benchmark import Distribution, Level, LevelResult, Plan, Result
    from engineroom.client import ServerAddress
    from engineroom.config import Arguments

EXAMPLES = """\
engineroom bench                                               the model that ships inside
engineroom bench infer_backend=vllm --concurrency 1,8,32
engineroom bench model_name_or_path=./my-model --prompt-tokens 8-800 --answer-tokens 33
engineroom bench --url http://127.0.0.1:8000/v1 --rate 2,4 --requests 200 --save run.json
"""

FAILED = 1
_SHOWN_ERRORS = 5


def bench(
    context: typer.Context,
    url: UrlOption = None,
    model: ModelOption = None,
    api_key: ApiKeyOption = None,
    concurrency: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Requests at once, a level each. Without --rate and this: 1,8."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,…", help="Instead: requests a second, by chance (Poisson), waiting for none."
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help="Requests measured at each level. Without: 4 rounds, 16 at least."
        ),
    ] = None,
    prompt_tokens: Annotated[
        str, typer.Option(metavar="N|N-M", help="Length of the prompts, template included.")
    ] = "128",
    answer_tokens: Annotated[str, typer.Option(metavar="N|N-M", help="Length of the answers.")] = "64",
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help="Requests before each level that don't count. Without: one round."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Makes lengths, words and arrivals repeatable.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which a request counts as failed.")
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(
            min=1, help="The server's process, if it runs here: its CPU time and memory are measured."
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep all figures, of each request too, as JSON.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Measure latency and throughput of an engine, or of an OpenAI-compatible server.

    Random prompts of the given lengths, answers of the given lengths (as far as they can be made to go on past their
    end); tokens are counted, never pieces of a stream. Of each level: time to first token, time between tokens, whole
    time (p50, p90, p99), tokens and requests a second, tokens for each second of processor time, peak memory.

    The exit code is 0 if every request was answered, 1 if one failed, 2 if the question can't be asked. With --json:
    model, engine, prompt_tokens, answer_tokens, seed, timeout, notes, levels. Times are in seconds, sizes in bytes.
    """
    from engineroom.benchmark import Plan, Span

    server = named_server(url, model, api_key)
    plan = Plan(
        levels=_levels(concurrency, rate),
        prompt=Span.parse(prompt_tokens, "--prompt-tokens"),
        answer=Span.parse(answer_tokens, "--answer-tokens"),
        requests=requests,
        warmup=warmup,
        seed=random.randrange(10**6) if seed is None else seed,
        timeout=timeout,
    )
    _check_writable(save)
    result = _measured(context, server, plan, pid)
    _save(result, save)
    _tell(result, as_json=as_json)
    return FAILED if result.failed else 0


# --- what is asked ----------------------------------------------------------------------------------------------


def _levels(concurrency: str | None, rate: str | None) -> tuple[Level, ...]:
    """
    Raises:
        ArgumentError: both are given, or one is not a list of numbers.
    """
    from engineroom.benchmark import Level

    if concurrency is not None and rate is not None:
        raise ArgumentError(
            "--concurrency and --rate are two ways to ask",
            why="at a concurrency a request waits for an answer to end; at a rate it waits for none",
            fix="give one of the two",
        )
    if rate is not None:
        return tuple(Level(rate=_number(part, float, "--rate")) for part in rate.split(","))
    parts = (concurrency or "1,8").split(",")
    return tuple(Level(concurrency=int(_number(part, int, "--concurrency"))) for part in parts)


def _number(text: str, kind: Callable[[str], float], option: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100_000:
        raise ArgumentError(
            f"{option} {text!r} is not allowed",
            why="it is a number above 0, or several with commas between them",
            fix=f"{option} 1,8,32",
        )
    return value


def _check_writable(file: Path | None) -> None:
    """Before minutes are spent on what then can't be kept."""
    if file is not None:
        with file.open("a", encoding="utf-8"):
            pass


# --- measuring --------------------------------------------------------------------------------------------------


def _measured(context: typer.Context, server: ServerAddress | None, plan: Plan, pid: int | None) -> Result:
    """
    Raises:
        ArgumentError: an option belongs to the other kind of target.
    """
    if server is not None:
        refuse_settings_of_server(context)
        return _of_server(server, plan, pid)
    if pid is not None:
        raise ArgumentError("--pid without --url", why="an engine that runs here is measured anyway")
    return _of_engine(settings_of(context).arguments(), plan)


def _of_engine(arguments: Arguments, plan: Plan) -> Result:
    with open_model(arguments) as loaded:
        from engineroom.benchmark import EngineTarget, run

        with _bar() as progress:
            return asyncio.run(run(EngineTarget(loaded), plan, pid=os.getpid(), progress=progress))


def _of_server(address: ServerAddress, plan: Plan, pid: int | None) -> Result:
    from engineroom.benchmark import ServerTarget, run
    from engineroom.client import Server

    async def measured(progress: Callable[[Level, int, int], None]) -> Result:
        async with Server(address) as server:
            return await run(ServerTarget(server), plan, pid=pid, progress=progress)

    with _bar() as progress:
        return asyncio.run(measured(progress))


@contextmanager
def _bar() -> Generator[Callable[[Level, int, int], None], None, None]:
    """A bar for each level on stderr, if it is a terminal; it leaves no trace."""
    if not sys.stderr.isatty():
        yield lambda level, ended, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    bar = Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    shown = bar.add_task("preparing", total=None)

    def progress(level: Level, ended: int, total: int) -> None:
        if ended == 0:
            bar.reset(shown)
        bar.update(shown, description=str(level), completed=ended, total=total)

    with bar:
        yield progress


# --- what is told -----------------------------------------------------------------------------------------------


def _save(result: Result, file: Path | None) -> None:
    if file is not None:
        text = json.dumps(result.as_json(records=True), ensure_ascii=False)
        file.write_text(f"{text}\n", encoding="utf-8")


def _tell(result: Result, *, as_json: bool) -> None:
    for note in result.notes:
        print_note(note)
    if as_json:
        print_json(result.as_json())
    else:
        _show(result)


def _show(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    plan = result.plan
    print(f"{result.name} on {result.engine}: prompts of {plan.prompt} tokens, answers of {plan.answer}")
    print(f"seed {plan.seed}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for level in result.levels:
        table.add_column(str(level.level), justify="right", no_wrap=True)
    for name, cell in _ROWS:
        table.add_row(name, *(cell(level) for level in result.levels))
    Console(highlight=False).print(table)
    for level in result.levels:
        for error, count in level.errors.most_common(_SHOWN_ERRORS):
            print(
                f"{paint('failed:', RED, sys.stdout)} {count} of {len(level.records)} ({level.level}): {error}"
            )
        if len(level.errors) > _SHOWN_ERRORS:
            print(f"and {len(level.errors) - _SHOWN_ERRORS} other errors")


def _milliseconds(distribution: Distribution | None) -> str:
    if distribution is None:
        return "–"
    return " / ".join(
        _digits(seconds * 1000) for seconds in (distribution.p50, distribution.p90, distribution.p99)
    )


def _digits(value: float | None) -> str:
    """Three digits that count, no more: so much is true of a measurement at best."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _mean_length(level: LevelResult) -> str:
    count = len(level.answered)
    if not count:
        return "–"
    told = f"{level.prompt_tokens / count:.0f} + {level.answer_tokens / count:.0f}"
    early = level.answer_tokens < level.asked_tokens
    return f"{told} of {level.asked_tokens / count:.0f}" if early else told


_ROWS: tuple[tuple[str, Callable[[LevelResult], str]], ...] = (
    ("requests answered", lambda level: f"{len(level.answered)} of {len(level.records)}"),
    ("tokens, prompt + answer, mean", _mean_length),
    ("first token, ms, p50 / p90 / p99", lambda level: _milliseconds(level.ttft)),
    ("between tokens, ms", lambda level: _milliseconds(level.inter_token)),
    ("whole answer, ms", lambda level: _milliseconds(level.end_to_end)),
    ("answer tokens a second", lambda level: _digits(level.answer_tokens_per_second)),
    ("all tokens a second", lambda level: _digits(level.tokens_per_second)),
    ("requests a second", lambda level: _digits(level.requests_per_second)),
    ("answer tokens a CPU second", lambda level: _digits(level.answer_tokens_per_cpu_second)),
    ("peak memory", lambda level: "–" if level.peak_memory is None else size(level.peak_memory)),
)
