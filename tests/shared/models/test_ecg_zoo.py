"""The ECG encoders of LeMoF's comparison: sizes by closed forms, and what they have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fl_shared.errors import ConsiliumError
from fl_shared.models.catalogue import LEADS
from fl_shared.models.encoders.waveforms import centred, stretches
from fl_shared.models.interface import StagedEncoder
from fl_shared.models.registry import ENCODERS
from fl_shared.study import ModalityPlan, ModelPlan

ZOO = ("ecg_cnn", "ecg_lstm", "ecg_resnet34", "wavenet", "xresnet1d101")
PLAN = ModalityPlan(kind="waveform", leads=LEADS, rate=100, seconds=10)
SMALL_LIMIT = 150_000  # parameters


def built(name: str, preset: str = "small", *, weights: Path | None = None) -> StagedEncoder:
    model = ModelPlan.model_validate({"preset": preset})
    return ENCODERS.get(name, key="").build(PLAN, model, weights).eval()


def ecg(n: int, *, leads: int = 12, samples: int = 1000) -> dict[str, Tensor]:
    signal = 0.2 * torch.randn(n, leads, samples, dtype=torch.float64)
    return {"signal": signal, "lead_mask": torch.ones(n, leads, dtype=torch.bool)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- sizes -------------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> int:
    return outputs * (inputs * kernel + bias)


def resnet34(channels: tuple[int, ...] = (64, 128, 256, 512), blocks: tuple[int, ...] = (3, 4, 6, 3)) -> int:
    total = conv(12, 64, 7) + 2 * 64
    for before, width, n in zip((64, *channels[:-1]), channels, blocks, strict=True):
        total += conv(before, width, 3) + (2 * n - 1) * conv(width, width, 3) + 2 * n * 2 * width
        total += conv(before, width, 1) + 2 * width if before != width else 0
    return total


def xresnet101() -> int:
    stem = conv(12, 32, 5) + conv(32, 32, 5) + conv(32, 64, 5) + 2 * (32 + 32 + 64)
    block = conv(256, 64, 1) + conv(64, 64, 5) + conv(64, 256, 1) + 2 * (64 + 64 + 256)
    first = conv(64, 64, 1) - conv(256, 64, 1) + conv(64, 256, 1) + 2 * 256
    return stem + (3 + 4 + 23 + 3) * block + first


UNREAD = conv(64, 64, 1, bias=True)  # the last layer's map to the stream
LAYER = conv(64, 128, 2, bias=True) + 2 * conv(64, 64, 1, bias=True)
CLOSED_FORMS = {
    "ecg_cnn": conv(12, 64, 7) + conv(64, 128, 5) + conv(128, 256, 3) + 2 * (64 + 128 + 256),
    "ecg_lstm": conv(12, 64, 7, bias=True) + conv(64, 128, 5, bias=True) + 3 * (4 * 128 * (2 * 128 + 2) + 2 * 128),
    "ecg_resnet34": resnet34(),
    "wavenet": conv(12, 64, 1, bias=True) + 24 * LAYER - UNREAD + 2 * 64 + conv(64, 256, 1, bias=True),
    "xresnet1d101": xresnet101(),
}
LEVELS = {
    "ecg_cnn": [(64, 250), (128, 63), (256, 32)],
    "ecg_lstm": [(128, 125)] * 3,
    "ecg_resnet34": [(128, 125), (256, 63), (512, 32)],
    "wavenet": [(128, 1000), (128, 1000), (64, 1000)],
    "xresnet1d101": [(256, 125), (256, 63), (256, 32)],
}
WIDTHS = {"ecg_cnn": 256, "ecg_lstm": 128, "ecg_resnet34": 512, "wavenet": 256, "xresnet1d101": 512}


@pytest.mark.parametrize("name", ZOO)
def test_published_sizes_are_exact_and_maps_as_long_as_the_strides_say(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        encoder = built(name, "paper")
        out = encoder({"signal": torch.zeros(1, 12, 1000), "lead_mask": torch.ones(1, 12, dtype=torch.bool)})
    assert count(encoder) == CLOSED_FORMS[name]
    assert [tuple(level.map.shape[1:]) for level in out.levels] == LEVELS[name]
    assert out.tokens.shape == (1, 16, WIDTHS[name])
    assert out.pooled.shape == (1, encoder.width)


@pytest.mark.parametrize("name", ZOO)
def test_small_ones_are_small_and_have_as_many_stages(name: str) -> None:
    small, paper = built(name), built(name, "paper")
    assert count(small) < SMALL_LIMIT
    assert len(small.stage_channels) == len(paper.stage_channels)
    assert all(a <= b for a, b in zip(small.stage_channels, paper.stage_channels, strict=True))


# --- what all share ----------------------------------------------------------------------------------------------


def test_leads_are_centred_scaled_and_silenced() -> None:
    inputs = ecg(2, leads=3, samples=8)
    inputs["lead_mask"][0, 1] = False
    inputs["signal"][0, 1] = torch.nan
    expected = 5 * (inputs["signal"] - inputs["signal"].sum(-1, keepdim=True) / 8)
    expected[0, 1] = 0
    torch.testing.assert_close(centred(inputs), expected)


@pytest.mark.parametrize("name", ZOO)
def test_the_offset_of_a_lead_does_not_matter_but_a_lead_does(name: str) -> None:
    encoder, inputs = built(name).double().requires_grad_(False), ecg(2)
    found = encoder(inputs).pooled
    shifted = {**inputs, "signal": inputs["signal"] + torch.randn(2, 12, 1, dtype=torch.float64)}
    torch.testing.assert_close(encoder(shifted).pooled, found, rtol=1e-9, atol=1e-11)
    gone = {**inputs, "lead_mask": torch.arange(12).expand(2, -1) != 7}
    assert float((encoder(gone).pooled - found).abs().amax(1).min()) > 1e-4


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(("rate", "samples"), [(100, 400), (500, 500), (50, 9)])
def test_16_tokens_at_any_rate(name: str, rate: int, samples: int) -> None:
    plan = ModalityPlan(kind="waveform", leads=("I", "II"), rate=rate, seconds=samples / rate)
    with torch.device("meta"), torch.no_grad():
        encoder = ENCODERS.get(name, key="").build(plan, ModelPlan(), None)
        inputs = {"signal": torch.zeros(3, 2, samples), "lead_mask": torch.ones(3, 2, dtype=torch.bool)}
        assert encoder(inputs).tokens.shape == (3, 16, encoder.width)


@pytest.mark.parametrize("name", ["ecg_cnn", "ecg_lstm", "ecg_resnet34", "xresnet1d101"])
def test_tokens_are_stretches_of_the_last_level_in_order(name: str) -> None:
    encoder = built(name).double()
    out = encoder(ecg(2, samples=1024))
    last = out.levels[-1].map.unflatten(2, (16, -1))
    expected = torch.cat([last.mean(3), last.amax(3)], 1) if name == "xresnet1d101" else last.mean(3)
    torch.testing.assert_close(out.tokens, expected.transpose(1, 2))
    whole = last.flatten(2)
    pooled = torch.cat([whole.mean(2), whole.amax(2)], 1) if name == "xresnet1d101" else whole.mean(2)
    torch.testing.assert_close(out.pooled, pooled)


def test_of_few_steps_some_are_repeated() -> None:
    tokens = stretches(torch.arange(8.0).expand(1, 3, 8))
    assert tokens[0, :, 2].tolist() == [k // 2 for k in range(16)]


@pytest.mark.parametrize("name", ZOO)
def test_weights_of_a_directory_are_loaded_or_refused(name: str, tmp_path: Path) -> None:
    given = built(name).state_dict()
    save_file(given, tmp_path / "model.safetensors")
    torch.manual_seed(1)
    found = built(name, weights=tmp_path).state_dict()
    assert all(torch.equal(found[key], given[key]) for key in given)
    assert any(not torch.equal(value, given[key]) for key, value in built(name).state_dict().items())
    with pytest.raises(ConsiliumError, match="refused"):
        built(name, "paper", weights=tmp_path)
