"""``engineroom convert-experts``: a sparse model's experts in a form that kt-kernel reads at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import print_json, size
from engineroom.errors import EngineNotInstalledError

EXAMPLES = """\
engineroom convert-experts demo-moe --out ./experts kt_method=AMXINT8
engineroom convert-experts ./my-moe --out ./experts kt_method=LLAMAFILE
engineroom chat ./my-moe infer_backend=ktransformers kt_weight_path=./experts
"""


def convert_experts(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write to.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A folder, a hub repository, or a shipped model.", show_default="demo"
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Quantise the experts of a sparse model for KTransformers, once instead of at every start.

    kt_method says how: AMXINT8, AMXINT4, or LLAMAFILE, which writes GGUF files of 8 bits. Each layer is read back and
    compared before it counts as done; a run that was stopped goes on where it was. Afterwards kt_weight_path names the
    folder.

    With --json: method, layers, layers_done_before, bytes, folder.
    """
    from engineroom.cli.loading import load_progress
    from engineroom.engines import registry

    arguments = settings_of(context).arguments(model_name_or_path=model)
    spec = registry.find("ktransformers")
    why = spec.missing()
    if why:
        raise EngineNotInstalledError("experts can't be converted here", why=why, fix=spec.fix)
    with load_progress(arguments.model_name_or_path) as progress:
        from engineroom.engines.ktransformers.convert import convert

        done = convert(arguments, out, progress)
    if as_json:
        print_json(
            {
                "method": done.method,
                "layers": done.layers,
                "layers_done_before": done.before,
                "bytes": done.size,
                "folder": str(out),
            }
        )
        return 0
    already = f", {done.before} of them before" if done.before else ""
    print(f"{done.layers} layers of experts as {done.method}{already}: {size(done.size)} in {out}")
    print(f"use them with infer_backend=ktransformers kt_weight_path={out}")
    return 0
