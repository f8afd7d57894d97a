"""What SGLang means otherwise than engineroom's contract, changed through SGLang's own plugin hooks (srt/plugins).

Read in SGLang 0.5.23:

- Its repetition penalty looks at the answer alone; ours, as Transformers' and vLLM's, at the prompt too.
- It penalises first and adds the logit bias last; ours is the other way round, as in Transformers.
- Its log-probabilities are those of the penalised and biased logits; ours are the model's own. With
  ``SGLANG_RETURN_ORIGINAL_LOGPROB`` they are at least those of temperature 1.
- It makes a bias for classification heads which the checkpoint does not have, and never sets it.
- Its embeddings are normalised, and pooled as the model's class says; a value head needs the hidden state itself.
"""

from __future__ import annotations

import importlib
from typing import Any

_RAW = "engineroom_raw_logits"


def register(settings: dict[str, Any]) -> None:
    """Takes effect when SGLang loads its plugins, in each of its processes."""
    hooks: Any = importlib.import_module("sglang.srt.plugins.hook_registry")
    add, kind = hooks.HookRegistry.register, hooks.HookType
    sampling, runner = "sglang.srt.sampling", "sglang.srt.model_executor.model_runner.ModelRunner"
    batch = f"{sampling}.sampling_batch_info.SamplingBatchInfo"
    add(
        f"{sampling}.penaltylib.repetition_penalty.BatchedRepetitionPenalizer._prepare",
        count_prompt,
        kind.AFTER,
    )
    add(f"{batch}._apply_pre_grammar_logits_transforms", shape_logits, kind.REPLACE)
    add(f"{batch}._apply_post_grammar_logits_transforms", do_nothing, kind.REPLACE)
    add(f"{runner}.sample", keep_raw_logits, kind.BEFORE)
    add("sglang.srt.layers.sampler.Sampler.forward", tell_raw_logprobs, kind.AROUND)
    if settings["zero_score_bias"]:
        add("sglang.srt.model_loader.loader.DefaultModelLoader.load_model", zero_score_bias, kind.AFTER)
    if settings["pooling"]:
        add("sglang.srt.layers.pooler.Pooler.__init__", pool_raw(settings["pooling"]), kind.AFTER)


def count_prompt(_: object, penalizer: Any) -> None:
    """[requests, vocabulary]: marks what has been seen before the penaliser was made."""
    for row, request in enumerate(penalizer.orchestrator.reqs()):
        seen = list({*request.origin_input_ids, *request.output_ids})
        penalizer.cumulated_repetition_penalties[row, seen] = penalizer.repetition_penalties[row]


def shape_logits(info: Any, logits: Any) -> None:
    """Bias, repetition penalty, then the other two; [requests, vocabulary], in place."""
    torch = importlib.import_module("torch")
    penalties = importlib.import_module("sglang.srt.sampling.penaltylib.repetition_penalty")
    added, scaled = info.acc_additive_penalties, info.acc_scaling_penalties
    if info.penalizer_orchestrator and info.penalizer_orchestrator.is_required:
        added = torch.zeros_like(logits)
        info.penalizer_orchestrator.accumulate_additive_penalties(added)
        scaled = info.penalizer_orchestrator.accumulate_scaling_penalties()
    if info.logit_bias is not None:
        logits.add_(info.logit_bias)
    if scaled is not None:
        penalties.apply_scaling_penalties(logits, scaled)
    if added is not None:
        logits.add_(added)


def do_nothing(*_: Any) -> None:
    pass


def keep_raw_logits(_: Any, logits_output: Any, forward_batch: Any) -> None:
    raw = logits_output.next_token_logits.clone() if forward_batch.return_logprob else None
    setattr(logits_output, _RAW, raw)


def tell_raw_logprobs(forward: Any, sampler: Any, logits_output: Any, *args: Any, **kwargs: Any) -> Any:
    """``logprob_logits`` is SGLang's own parameter, which its watermarks use."""
    raw = getattr(logits_output, _RAW, None)
    if raw is not None:
        setattr(logits_output, _RAW, None)
        kwargs.setdefault("logprob_logits", raw)
    return forward(sampler, logits_output, *args, **kwargs)


def zero_score_bias(model: Any, *_: Any, **__: Any) -> None:
    torch = importlib.import_module("torch")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "score.bias":
                parameter.zero_()


def pool_raw(pooling: str) -> Any:
    """
    Args:
        pooling: last, mean or cls.
    """

    def after_init(_: object, pooler: Any, *__: Any, **___: Any) -> None:
        kinds: Any = importlib.import_module("sglang.srt.layers.pooler").PoolingType
        pooler.pooling_type, pooler.normalize = kinds[pooling.upper()], False

    return after_init
