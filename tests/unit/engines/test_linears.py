"""Linear layers on a CPU: whatever their form, they compute what they did."""

import gc
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import linear

import tiny_models
from engineroom import ChatModel
from engineroom.engines.huggingface import arrangement, trial
from engineroom.engines.huggingface.arrangement import arrange
from engineroom.engines.huggingface.int8 import Int8Linear, quantize
from engineroom.engines.huggingface.linear_layers import watched
from engineroom.engines.huggingface.linears import (
    RowLinear,
    TiledLinear,
    WideLinear,
    wide_linear,
)
from engineroom.engines.huggingface.pages import Pages
from engineroom.engines.huggingface.trial import faster, ratio, sample


def model(folder: Path, **options: Any) -> Any:
    return tiny_models.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


IDS = torch.tensor([[5, 900, 17, 3, 44, 61, 7]])


@pytest.fixture
def columns_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrangement, "faster", lambda some, others, tokens: True)


@pytest.fixture
def rows_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tiles pay with eight tokens, and up to fifteen."""
    monkeypatch.setattr(arrangement, "faster", lambda some, others, tokens: False)
    monkeypatch.setattr(arrangement, "ratio", lambda some, others, tokens: 0.5 if tokens == 8 else 1.0)
    monkeypatch.setattr(arrangement, "_LARGE", 0)


@pytest.mark.usefixtures("columns_win")
def test_tiles_and_columns_change_the_layout_and_nothing_else(tiny_folder: Path) -> None:
    plain, arranged = model(tiny_folder), model(tiny_folder)
    arrange(arranged, decodes=True)
    assert isinstance(arranged.lm_head, TiledLinear)
    assert not arranged.model.layers[0].self_attn.k_proj.weight.is_contiguous()
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear):
            assert torch.equal(arranged.get_submodule(name).weight, module.weight)
    with torch.inference_mode():
        torch.testing.assert_close(arranged(IDS).logits, plain(IDS).logits, rtol=1e-4, atol=1e-4)
    saved, whole = arranged.state_dict(), plain.state_dict()
    assert saved.keys() == whole.keys()
    assert all(torch.equal(saved[name], whole[name]) for name in whole)


@pytest.mark.usefixtures("rows_win")
def test_where_rows_are_faster_the_weights_stay_as_they_were_loaded(tiny_folder: Path) -> None:
    plain, arranged = model(tiny_folder), model(tiny_folder)
    places = {name: weight.data_ptr() for name, weight in arranged.named_parameters()}
    arrange(arranged, decodes=True)
    assert isinstance(arranged.lm_head, RowLinear)
    assert arranged.lm_head.pays == (False, False, False, True, False, False)
    assert {name: weight.data_ptr() for name, weight in arranged.named_parameters()} == places
    for tokens in (1, 7, 9, 40):
        ids = torch.arange(tokens).view(1, -1)
        with torch.inference_mode():
            torch.testing.assert_close(arranged(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whatever_wins_here_computes_the_same(tiny_folder: Path, dtype: torch.dtype) -> None:
    plain, arranged = (model(tiny_folder, dtype=dtype) for _ in range(2))
    with torch.inference_mode():
        arrange(arranged, decodes=True)
        one, other = plain(IDS).logits.float(), arranged(IDS).logits.float()
    assert float((one - other).norm() / one.norm()) < (1e-4 if dtype == torch.float32 else 0.05)


def test_a_trial_tells_what_takes_longer() -> None:
    class Slow(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return super().forward(input)

    quick, slow = [nn.Linear(16, 16)], [Slow(16, 16)]
    assert ratio(slow, quick, 2) > 1 > ratio(quick, slow, 2)
    assert faster(quick, slow, (1, 2))
    assert not faster(slow, quick, (1, 2))


def test_a_sample_has_the_weights_themselves_and_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Linear(64, 256) for _ in range(3)]
    monkeypatch.setattr(trial, "_SAMPLE", layers[0].weight.nbytes * 5 // 2)
    first, second = sample(layers)
    assert (first.weight.data_ptr(), second.weight.data_ptr()) == tuple(
        x.weight.data_ptr() for x in layers[:2]
    )
    monkeypatch.setattr(trial, "_SAMPLE", layers[0].weight.nbytes // 2)
    (part,) = sample(layers)
    assert (part.out_features, part.weight.shape, part.bias) == (128, (128, 64), None)
    assert torch.equal(part.weight, layers[0].weight[:128])


def mamba() -> Any:
    """It multiplies with a layer's weight itself (``dt_proj``), and asks that of its head for its dtype."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=1024, hidden_size=128, num_hidden_layers=1, tie_word_embeddings=False
    )
    return transformers.MambaForCausalLM(config).eval()


@pytest.mark.usefixtures("columns_win")
def test_weights_that_the_model_reads_itself_are_not_copied_at_each_token() -> None:
    plain, arranged = mamba(), mamba()
    with torch.inference_mode():
        arrange(arranged, decodes=True)
        mixer = arranged.backbone.layers[0].mixer
        assert type(mixer.dt_proj) is type(arranged.lm_head) is nn.Linear
        assert isinstance(mixer.in_proj, TiledLinear)
        torch.testing.assert_close(arranged(IDS).logits, plain(IDS).logits, rtol=1e-4, atol=1e-4)


def test_weights_that_the_model_reads_itself_are_not_quantised() -> None:
    plain, small = mamba(), mamba()
    with torch.inference_mode():
        error = quantize(small)
        assert isinstance(small.backbone.layers[0].mixer.in_proj, Int8Linear)
        one, other = plain(IDS).logits, small(IDS).logits
    assert 0 < error < 0.2
    assert float((one - other).norm() / one.norm()) < 0.2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [256, 512, 600, 1100])
@pytest.mark.parametrize("shape", [(1, 1, 48), (1, 9, 48), (3, 200, 48), (48,), (1, 0, 48)])
def test_a_tiled_product_is_the_plain_one(shape: tuple[int, ...], outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain, tiled = nn.Linear(48, outputs, bias=bias), nn.Linear(48, outputs, bias=bias)
    tiled.load_state_dict(plain.state_dict())
    TiledLinear.of(tiled, Pages([plain.weight.nbytes]))
    assert torch.equal(tiled.weight, plain.weight)
    given = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(tiled(given), plain(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [96, 128, 600])
@pytest.mark.parametrize("tokens", [0, 1, 4, 8, 15, 16, 300])
def test_a_weight_by_rows_gives_the_plain_product(tokens: int, outputs: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, outputs)
    shared = nn.Linear(48, outputs)
    shared.load_state_dict(plain.state_dict())
    RowLinear.of(shared, (False, True))
    given = torch.randn(1, tokens, 48)
    with torch.inference_mode():
        torch.testing.assert_close(shared(given), plain(given), rtol=1e-5, atol=1e-5)


def test_a_model_that_reads_whole_texts_stays_as_it_is(tiny_folder: Path) -> None:
    arranged = model(tiny_folder)
    arrange(arranged, decodes=False)
    assert all(weight.is_contiguous() for weight in arranged.parameters())


def test_a_weight_that_is_an_embedding_too_stays_as_it_is(
    tmp_path: Path, rows_win: None, columns_win: None
) -> None:
    tied = model(tiny_models.causal(tmp_path / "tied", tie_word_embeddings=True))
    arrange(tied, decodes=True)
    assert isinstance(tied.lm_head, RowLinear)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert tied.lm_head.weight.is_contiguous()
    assert not tied.model.layers[0].mlp.up_proj.weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 3, 4, 40])
def test_a_widened_product_is_the_exact_one_rounded_once(dtype: torch.dtype, tokens: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 600).to(dtype)
    given = torch.randn(2, tokens, 48, dtype=dtype)
    found = wide_linear(given, layer.weight, layer.bias)
    exact = linear(given.double(), layer.weight.double(), layer.bias.double())
    assert (found.dtype, found.shape) == (dtype, (2, tokens, 600))
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("columns", [True, False])
def test_halves_take_the_form_that_is_faster(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, wide: bool, columns: bool
) -> None:
    monkeypatch.setattr(arrangement, "ratio", lambda some, others, tokens: 0.7 if wide else 0.9)
    monkeypatch.setattr(arrangement, "faster", lambda some, others, tokens: columns)
    plain, arranged = (model(tiny_folder, dtype=torch.bfloat16) for _ in range(2))
    arrange(arranged, decodes=True)
    assert isinstance(arranged.lm_head, WideLinear) is wide
    assert arranged.lm_head.weight.is_contiguous() is not columns
    with torch.inference_mode():
        one, other = plain(IDS).logits.float(), arranged(IDS).logits.float()
    assert float((one - other).norm() / one.norm()) < 0.05


@pytest.mark.parametrize("bias", [True, False])
def test_int8_is_near_and_each_token_s_own(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 96, bias=bias)
    layer.weight.data *= torch.linspace(0.01, 10, 96)[:, None]  # a scale per output
    (small,) = Int8Linear.of([layer])
    tokens = torch.randn(1, 9, 256) * torch.logspace(-3, 3, 9)[:, None]  # and one per token
    with torch.inference_mode():
        exact, found = layer(tokens), small(tokens)
        error = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
        assert float(error.max()) < 0.02
        for place in range(9):
            rounding = 1e-6 * float(
                found[:, place].abs().max()
            )  # a small output is a difference of large ones
            torch.testing.assert_close(small(tokens[:, place]), found[:, place], rtol=0, atol=rounding)
        assert not small(torch.zeros(1, 256)).isnan().any()


def test_layers_that_are_given_the_same_share_its_int8_form() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(256, size, bias=size == 96) for size in (96, 64, 64)]
    alone = [Int8Linear.of([layer])[0] for layer in layers]
    together = Int8Linear.of(layers)
    with torch.inference_mode():
        for tokens in (torch.randn(1, 1, 256), torch.randn(1, 7, 256)):
            for order in (
                (0, 1, 2),
                (2, 0, 1),
                (1, 1, 2),
            ):  # also one that comes twice, and one that never comes
                for place in order:
                    found, wanted = together[place](tokens), alone[place](tokens)
                    assert found.is_contiguous()
                    assert torch.equal(found, wanted)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.weight, other.weight)


def test_what_lies_side_by_side_is_seen_in_a_pass(tiny_folder: Path) -> None:
    small = model(tiny_folder)
    with torch.inference_mode():
        quantize(small)
    attention, mlp = small.model.layers[0].self_attn, small.model.layers[0].mlp
    assert attention.q_proj._product is attention.k_proj._product is attention.v_proj._product
    assert mlp.gate_proj._product is mlp.up_proj._product
    assert attention.o_proj._product is not mlp.down_proj._product


def test_an_input_that_is_changed_between_two_layers_is_not_shared() -> None:
    one, other, third = (nn.Linear(64, 64) for _ in "abc")
    tokens = torch.ones(1, 64)
    with torch.inference_mode(), watched([one, other, third]) as uses:
        one(tokens)
        tokens.mul_(2)
        other(tokens)
        third(tokens)
    assert uses.siblings() == [[other, third]]


def test_quantising_lets_go_of_the_weights_and_tells_its_error(tiny_folder: Path) -> None:
    plain, small = model(tiny_folder), model(tiny_folder)
    weights = weakref.ref(small.model.layers[0].mlp.up_proj.weight)
    with torch.inference_mode():
        error = quantize(small)
        one, other = plain(IDS).logits, small(IDS).logits
    gc.collect()
    assert weights() is None
    assert not [m for m in small.modules() if type(m) is nn.Linear]
    assert 0.001 < error < 0.2
    assert float((one - other).norm() / one.norm()) == pytest.approx(error, rel=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_8_bits_answers_and_says_so(tiny_folder: Path, dtype: str) -> None:
    arguments = {"model_name_or_path": str(tiny_folder), "quantization_bit": 8, "infer_dtype": dtype}
    with ChatModel(arguments) as small:
        assert small.health().detail.startswith("int8 weights: a relative error of ")
        assert small.chat("hi", temperature=0, max_new_tokens=8, ignore_eos=True)[0].response_length == 8
        assert isinstance(small.engine.model.lm_head, Int8Linear)


def test_adapters_lie_beside_weights_of_8_bits(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = tiny_models.lora(tiny_folder, tmp_path / "adapter", 0)
    arguments = {
        "model_name_or_path": str(tiny_folder),
        "adapter_name_or_path": str(adapter),
        "quantization_bit": 8,
    }
    with ChatModel({**arguments, "adapter_merge": False}) as small:
        options = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
        with_it = small.chat("hi", adapter="adapter", **options)[0].token_ids
        assert with_it != small.chat("hi", **options)[0].token_ids
        small.load_adapter("late", adapter)
        assert small.chat("hi", adapter="late", **options)[0].token_ids == with_it
        small.unload_adapter("late")
    with ChatModel(arguments) as merged:
        assert len(merged.chat("hi", **options)[0].token_ids) == 8


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")  # peft, as it saves
@pytest.mark.parametrize(("bits", "form"), [(None, "columns_win"), (None, "rows_win"), (8, "columns_win")])
def test_adapters_that_scale_weights_lie_beside_every_form(
    bits: int | None, form: str, tiny_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """DoRA reads the weights at each token, and one on the output layer brings that layer's own weight along."""
    request.getfixturevalue(form)
    targets = ["q_proj", "up_proj"] if bits else ["q_proj", "lm_head"]
    adapter = tiny_models.lora(tiny_folder, tmp_path / "adapter", 0, use_dora=True, target_modules=targets)
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    arguments: dict[str, Any] = {
        "model_name_or_path": str(tiny_folder),
        "adapter_name_or_path": str(adapter),
        "quantization_bit": bits,
    }
    with ChatModel({**arguments, "adapter_merge": False}) as apart:
        with_it = apart.chat("hi", adapter="adapter", **options)[0].token_ids
        assert with_it != apart.chat("hi", **options)[0].token_ids
        apart.load_adapter("late", adapter)
        assert apart.chat("hi", adapter="late", **options)[0].token_ids == with_it
    if bits is None:
        with ChatModel(arguments) as merged:
            assert merged.chat("hi", **options)[0].token_ids == with_it
