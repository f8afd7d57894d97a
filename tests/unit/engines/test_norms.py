"""RMS norms in fewer operations: what is one becomes lean, and everything else stays what it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

import tiny_models
from engineroom.engines.huggingface.norms import LeanRMSNorm, simplify


def simplified(norm: Any) -> Any:
    with torch.inference_mode():
        simplify(nn.Sequential(norm))  # pyright: ignore[reportArgumentType]
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_a_lean_norm_computes_what_its_model_s_did(family: Any, dtype: torch.dtype, eps: float) -> None:
    torch.manual_seed(0)
    norm = family(48, eps=eps).to(dtype)
    norm.weight.data.uniform_(0.5, 2)
    given = (torch.randn(3, 5, 48) * torch.logspace(-6, 3, 5)[:, None]).to(dtype)
    with torch.inference_mode():
        expected = norm(given)
        lean = simplified(norm)
        assert isinstance(lean, LeanRMSNorm)
        assert list(lean.state_dict()) == ["weight"]
        found = lean(given)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
        assert not lean(torch.zeros(1, 48, dtype=dtype)).isnan().any()
        assert lean(torch.full((1, 48), torch.nan, dtype=dtype)).isnan().all()


class Scaled(nn.Module):
    """Has what an RMS norm has, and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))
        self.eps = 1e-6

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.weight


class ForHeads(nn.Module):
    """Takes [texts, tokens, heads, size], as xLSTM's norms do, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))
        self.eps = 1e-6

    def forward(self, states: Tensor) -> Tensor:
        texts, tokens, heads, size = states.shape
        return states.reshape(texts, tokens, heads * size) * self.weight


@pytest.mark.parametrize(
    "norm",
    [
        GemmaRMSNorm(48),
        MambaRMSNormGated(48),
        nn.LayerNorm(48, bias=False),
        nn.LayerNorm(48),
        Scaled(),
        ForHeads(),
        nn.RMSNorm(48),
    ],
)
def test_what_is_no_such_norm_stays_as_it_is(norm: nn.Module) -> None:
    kind = type(norm)
    assert type(simplified(norm)) is kind


def test_a_model_s_norms_are_all_found(tiny_folder: Path) -> None:
    family: Any = tiny_models.AutoModelForCausalLM
    plain, lean = (family.from_pretrained(tiny_folder).eval() for _ in range(2))
    ids = torch.tensor([[5, 900, 17, 3, 44, 61, 7]])
    with torch.inference_mode():
        simplify(lean)
        assert not [m for m in lean.modules() if isinstance(m, Qwen3RMSNorm)]
        torch.testing.assert_close(lean(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-5)
