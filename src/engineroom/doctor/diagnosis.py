"""The diagnosis of one model: all facts, all findings, and the verdict."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from engineroom import demo, machine
from engineroom.checkpoint import Checkpoint, CheckpointKind
from engineroom.config import Arguments
from engineroom.doctor.agreement import agreement_findings
from engineroom.doctor.engines import EngineVerdict, architecture_findings, engine_verdicts
from engineroom.doctor.finding import Finding, from_error, problem, warning
from engineroom.doctor.fit import Fit, fit
from engineroom.doctor.template import TemplateFacts, inspect_template
from engineroom.doctor.tokenizer import tokenizer_findings
from engineroom.doctor.weights import Weights, inspect_weights
from engineroom.engines import registry
from engineroom.engines.pooling import Pooling
from engineroom.errors import EngineroomError, ModelLoadError
from engineroom.params import SamplingParams
from engineroom.sampling import SamplingDefaults


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is known of a model before it is loaded.

    Attributes:
        engine: the engine that was asked for.
        template: None if it can't be used; a problem says why.
        sampling: the sampling defaults in force; None if generation_config.json is unusable.
    """

    model: str
    path: Path
    engine: str
    architecture: str
    kind: CheckpointKind
    weights: Weights
    fit: Fit
    template: TemplateFacts | None
    sampling: SamplingParams | None
    engines: tuple[EngineVerdict, ...]
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    @property
    def would_load(self) -> bool:
        return not self.problems


def diagnose(arguments: Arguments) -> Diagnosis:
    """Looks at everything that loading the model with these arguments depends on.

    Raises:
        ArgumentError: there is no such engine.
        ModelError: there is no such model, or its config.json can't be read.
    """
    spec = registry.find(arguments.infer_backend)
    checkpoint = Checkpoint.open(arguments, weights=False)
    kind = _kind(checkpoint)
    weights, findings = inspect_weights(checkpoint, remote=_is_remote(arguments))
    if not findings:  # what is missing or broken is not compared
        findings += agreement_findings(checkpoint, weights.tensors)
    findings += tokenizer_findings(checkpoint)
    findings += architecture_findings(arguments, checkpoint, kind)
    findings += _argument_findings(arguments, checkpoint, kind)
    fitting, about_memory = fit(arguments, checkpoint, weights)
    template, about_template = inspect_template(checkpoint, arguments.template)
    sampling, about_sampling = _sampling(arguments, checkpoint)
    findings += [*about_memory, *about_template, *about_sampling]
    problems = [f for f in findings if f.severity == "problem"]
    verdicts = engine_verdicts(problems, arguments, weights.tensors)
    if not problems:
        problems += _engine_problem(spec, verdicts)
    return Diagnosis(
        model=arguments.model_name_or_path,
        path=checkpoint.path,
        engine=spec.name,
        architecture=checkpoint.architecture,
        kind=kind,
        weights=weights,
        fit=fitting,
        template=template,
        sampling=sampling,
        engines=tuple(verdicts),
        problems=tuple(problems),
        warnings=tuple(f for f in findings if f.severity == "warning"),
    )


def _kind(checkpoint: Checkpoint) -> CheckpointKind:
    """The checkpoint's kind; where its weights are broken, which is told elsewhere, as its config alone has it."""
    try:
        return checkpoint.kind
    except ModelLoadError:
        return "causal"


def _is_remote(arguments: Arguments) -> bool:
    name = arguments.model_name_or_path
    return demo.resolve(name) is None and not Path(name).expanduser().is_dir()


def _engine_problem(spec: registry.EngineSpec, verdicts: list[EngineVerdict]) -> list[Finding]:
    """The chosen engine does not take a model that another one would."""
    chosen = next(v for v in verdicts if v.name == spec.name)
    if chosen.can:
        return []
    able = next((v.name for v in verdicts if v.can), None)
    fix = chosen.fix or (f"use infer_backend={able}" if able else "")
    return [problem(f"the {spec.name} engine can't take it", chosen.why, fix)]


def _sampling(arguments: Arguments, checkpoint: Checkpoint) -> tuple[SamplingParams | None, list[Finding]]:
    try:
        return SamplingDefaults(checkpoint.generation_config, arguments.sampling()).params, []
    except EngineroomError as error:
        return None, [from_error(error)]


# --- what the arguments ask of the model ------------------------------------------------------------------------


def _argument_findings(
    arguments: Arguments, checkpoint: Checkpoint, kind: CheckpointKind
) -> Generator[Finding, None, None]:
    yield from _context_findings(arguments, checkpoint)
    yield from _head_findings(arguments, checkpoint, kind)
    yield from _device_findings(arguments)
    for name in arguments.adapter_name_or_path:
        folder = Path(name).expanduser() / (arguments.adapter_folder or "")
        yield from _adapter_findings(folder, checkpoint)
    if "vision_config" in checkpoint.config or "audio_config" in checkpoint.config:
        yield warning(
            "this model sees or hears; engineroom sends it text only", "media are not supported yet"
        )


def _context_findings(arguments: Arguments, checkpoint: Checkpoint) -> Generator[Finding, None, None]:
    native, wanted = checkpoint.context_length, arguments.model_maxlen
    if native is None and wanted is None:
        yield warning(
            "config.json does not say how long the context is",
            "4096 tokens are assumed",
            "add model_maxlen=…",
        )
    if native and wanted and wanted > native and arguments.rope_scaling is None:
        yield problem(
            f"model_maxlen={wanted} is more than the model's {native}",
            "positions beyond those it was trained on give nonsense",
            "add rope_scaling=yarn (or linear, dynamic), or lower model_maxlen",
        )


def _embedding_findings(
    arguments: Arguments, checkpoint: Checkpoint, rewards: bool
) -> Generator[Finding, None, None]:
    if rewards:
        yield problem(
            f"stage=embed, but {checkpoint.name} is a reward model",
            "its head would be left out",
            "stage=rm, or leave stage out",
        )
    elif arguments.stage != "sft":
        try:
            Pooling.of(checkpoint)
        except ModelLoadError as error:
            yield from_error(error)


def _head_findings(
    arguments: Arguments, checkpoint: Checkpoint, kind: CheckpointKind
) -> Generator[Finding, None, None]:
    rewards = kind in ("sequence_classification", "value_head")
    if arguments.stage == "rm" and not rewards:
        yield problem(
            f"stage=rm, but {checkpoint.name} has no reward head",
            "there are neither v_head weights nor a sequence-classification head",
            "name a reward model, or leave stage out",
        )
    if kind == "embedding" or arguments.stage == "embed":
        yield from _embedding_findings(arguments, checkpoint, rewards)
    labels = checkpoint.config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else checkpoint.config.get("num_labels", 2)  # pyright: ignore[reportUnknownArgumentType]
    if kind == "sequence_classification" and count != 1:
        yield problem(
            f"{checkpoint.name} classifies into {count} labels",
            "a reward model has one",
            "name a reward model",
        )


def _device_findings(arguments: Arguments) -> Generator[Finding, None, None]:
    if machine.gpus():
        return
    if arguments.quantization_bit == 4:
        yield problem(
            f"quantization_bit={arguments.quantization_bit} needs an NVIDIA GPU",
            "bitsandbytes quantises on CUDA, and nvidia-smi reports no GPU",
            "quantization_bit=8 runs on a CPU; or leave quantization_bit out",
        )
    if arguments.device is not None and arguments.device.startswith("cuda"):
        yield problem(
            f"device={arguments.device} is not here",
            "nvidia-smi reports no GPU",
            "leave device out to take the best one",
        )


def _adapter_findings(folder: Path, checkpoint: Checkpoint) -> Generator[Finding, None, None]:
    import json

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        yield problem(
            f"{str(folder)!r} is not a LoRA adapter",
            f"its adapter_config.json can't be read: {error}",
            "check adapter_name_or_path (and adapter_folder)",
        )
        return
    if not any((folder / f"adapter_model.{suffix}").is_file() for suffix in ("safetensors", "bin")):
        yield problem(
            f"the adapter {str(folder)!r} has no weights",
            "there is no adapter_model.safetensors and no adapter_model.bin",
            "save the adapter again",
        )
    if base and Path(base).name != Path(checkpoint.name).name:
        yield warning(
            f"the adapter {folder.name} was trained on {base}",
            f"it goes onto {checkpoint.name}; on another model it does harm or fails",
            f"use model_name_or_path={base}",
        )
