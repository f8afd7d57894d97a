"""``engineroom doctor``: will this model load and answer here? Told before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import BOLD, DIM, GREEN, RED, YELLOW, columns, paint, print_json, quantity, size

if TYPE_CHECKING:
    from engineroom.doctor import Diagnosis, Finding
    from engineroom.doctor.fit import Fit
    from engineroom.doctor.template import TemplateFacts
    from engineroom.params import SamplingParams

EXAMPLES = """\
engineroom doctor                                 the model that ships inside
engineroom doctor ./my-model                      a folder
engineroom doctor ./my-model infer_dtype=bfloat16 model_maxlen=8192
engineroom doctor Qwen/Qwen3-4B --json            a hub repository; its weights are not downloaded
engineroom doctor ./my-model && engineroom chat ./my-model
"""


def doctor(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A folder, a hub repository, or a shipped model.", show_default="demo"
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Tell whether a model would load, before loading it.

    Looks at memory, context, engines, chat template, tool format and every file. The exit code is 0 if it would load and 1 if not. Nothing is imported that a model needs; weights are not read.

    With --json: model, path, would_load, engine, architecture, kind, parameters, dtype, context_length, weights,
    memory, template, sampling, engines, problems, warnings. Sizes are in bytes; a problem has what, why and fix.
    """
    from engineroom.doctor import diagnose

    diagnosis = diagnose(settings_of(context).arguments(model_name_or_path=model))
    if as_json:
        print_json(_as_json(diagnosis))
    else:
        _show(diagnosis)
    return 0 if diagnosis.would_load else 1


# --- for people -------------------------------------------------------------------------------------------------


def _show(diagnosis: Diagnosis) -> None:
    print(_verdict(diagnosis))
    _show_findings(diagnosis.problems, "problem", RED)
    _show_findings(diagnosis.warnings, "warning", YELLOW)
    print()
    print(columns(_facts(diagnosis), indent=""))
    print(f"\n{paint('engines', BOLD, sys.stdout)}")
    print(columns([(v.name, "yes" if v.can else "no", v.why) for v in diagnosis.engines]))


def _verdict(diagnosis: Diagnosis) -> str:
    name = paint(diagnosis.model, BOLD, sys.stdout)
    if diagnosis.would_load:
        return f"{paint('yes:', GREEN, sys.stdout)} {name} would load on the {diagnosis.engine} engine"
    count = len(diagnosis.problems)
    return f"{paint('no:', RED, sys.stdout)} {name} would not load; {count} problem{'s' if count > 1 else ''}"


def _show_findings(findings: Sequence[Finding], title: str, style: str) -> None:
    for finding in findings:
        print(f"\n{paint(f'{title}:', style, sys.stdout)} {finding.what}")
        for name, text in (("why", finding.why), ("fix", finding.fix)):
            if text:
                print(f"  {paint(f'{name}:', DIM, sys.stdout)} {text}")


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    weights = diagnosis.weights
    count = f"{quantity(weights.parameters)} parameters" if weights.parameters else "parameters not counted"
    files = f"{len(weights.files)} file{'s' if len(weights.files) != 1 else ''}"
    stored = f", stored as {weights.dtype}" if weights.dtype else ""
    context = diagnosis.fit.context_length
    return [
        ("folder", str(diagnosis.path)),
        ("model", f"{diagnosis.architecture}, {count}, {_KINDS[diagnosis.kind]}"),
        ("weights", f"{size(weights.bytes)} in {files} ({weights.format}){stored}"),
        ("context", f"{context} tokens" if context else "not known"),
        ("memory", _memory(diagnosis.fit)),
        ("template", _template(diagnosis.template)),
        ("tools", _tools(diagnosis.template)),
        ("sampling", _sampling(diagnosis.sampling)),
    ]


_KINDS = {
    "causal": "answers",
    "sequence_classification": "reward model (classification head)",
    "value_head": "reward model (value head)",
    "embedding": "embedding model",
    "unknown": "kind not known",
}


def _memory(fit: Fit) -> str:
    cache = f" + {size(fit.kv_cache)} for a full context" if fit.kv_cache is not None else ""
    need = f"{size(fit.weights)} as {fit.dtype} + {size(fit.runtime)} for libraries{cache}"
    free = f"{size(fit.free)} free in {fit.where}" if fit.free is not None else "free memory not known"
    answer = {True: "fits", False: "does not fit", None: "can't tell"}[fit.fits]
    return f"{answer}: {need}; {free}"


def _template(facts: TemplateFacts | None) -> str:
    if facts is None:
        return "none that works"
    name = "ChatML" if facts.origin == "chatml" else facts.name
    if facts.has_thinking_switch:
        return f"{name}; thinks, with a switch: enable_thinking=true or false"
    return f"{name}; thinks, without a switch" if facts.thinks else f"{name}; no thinking"


def _tools(facts: TemplateFacts | None) -> str:
    if facts is None or facts.tool_format is None:
        return "no place for them in the template"
    return f"{facts.tool_format.name}: {facts.tool_format.looks}"


def _sampling(params: SamplingParams | None) -> str:
    if params is None:
        return "generation_config.json can't be used"
    changed = _changed(params)
    if params.temperature == 0:
        changed.pop("temperature", None)
        return ", ".join(["greedy", *(f"{name}={value}" for name, value in changed.items())])
    return ", ".join(
        [
            f"temperature={params.temperature:g}",
            *(f"{n}={v}" for n, v in changed.items() if n != "temperature"),
        ]
    )


def _changed(params: SamplingParams) -> dict[str, Any]:
    """The sampling defaults that differ from those of a model that says nothing."""
    plain = type(params)()
    names = type(params).names()
    return {name: value for name in names if (value := getattr(params, name)) != getattr(plain, name)}


# --- for programs -----------------------------------------------------------------------------------------------


def _as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    fit, weights, template = diagnosis.fit, diagnosis.weights, diagnosis.template
    form = template.tool_format if template else None
    return {
        "model": diagnosis.model,
        "path": str(diagnosis.path),
        "would_load": diagnosis.would_load,
        "engine": diagnosis.engine,
        "architecture": diagnosis.architecture,
        "kind": diagnosis.kind,
        "parameters": weights.parameters,
        "dtype": fit.dtype,
        "context_length": fit.context_length,
        "weights": {
            "format": weights.format,
            "files": [file.name for file in weights.files],
            "bytes": weights.bytes,
            "dtype": weights.dtype,
        },
        "memory": {
            "where": fit.where,
            "free": fit.free,
            "weights": fit.weights,
            "runtime": fit.runtime,
            "kv_cache": fit.kv_cache,
            "needed": fit.needed,
            "fits": fit.fits,
            "tokens": fit.tokens,
        },
        "template": template
        and {
            "origin": template.origin,
            "name": template.name,
            "thinking": template.thinks,
            "thinking_switch": template.has_thinking_switch,
            "tools": form is not None,
            "tool_format": form.name if form else None,
        },
        "sampling": diagnosis.sampling
        and {"temperature": diagnosis.sampling.temperature, **_changed(diagnosis.sampling)},
        "engines": [{"name": v.name, "can": v.can, "why": v.why} for v in diagnosis.engines],
        "problems": [_finding(f) for f in diagnosis.problems],
        "warnings": [_finding(f) for f in diagnosis.warnings],
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {"what": finding.what, "why": finding.why, "fix": finding.fix}
