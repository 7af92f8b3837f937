"""MedM2T's encoders against published counts, loops in float64 and torch's own LSTM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fl_shared.concepts import concept, names, scale
from fl_shared.models.encoders import hierarchical_series, medm2t_ecg, sparse_series
from fl_shared.models.encoders.hierarchical_series import SMALL, HierarchicalSeries
from fl_shared.models.encoders.medm2t_ecg import Medm2tEcg, Sizes
from fl_shared.models.encoders.segments import ChannelAttention
from fl_shared.models.encoders.sparse_series import CUTS, VALUES, SparseSeries
from fl_shared.study import ModalityPlan, ModelPlan

LEADS = tuple(f"l{i}" for i in range(12))
TINY = Sizes(channels=(8, 8, 16, 16, 24), dropout=0.0)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def ecg(n: int, *, leads: int = 2, samples: int = 640) -> dict[str, Tensor]:
    return {"signal": torch.randn(n, leads, samples), "lead_mask": torch.ones(n, leads, dtype=torch.bool)}


def series(n: int, bins: int, fields: int, *, share: float = 0.3) -> dict[str, Tensor]:
    values = torch.randn(n, bins, fields, dtype=torch.float64)
    return {"values": values, "observed": torch.rand(n, bins, fields) < share}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- ECG ---------------------------------------------------------------------------------------------------------


def test_ecg_has_the_published_size_and_steps() -> None:
    plan = ModalityPlan(kind="waveform", leads=LEADS, rate=125, seconds=5.12)
    encoder = medm2t_ecg.build(plan, ModelPlan(preset="paper", width=512, heads=64), None)
    assert count(encoder.mlp, encoder.mlp_norm) == 4_097_920
    assert count(encoder) - count(encoder.mlp, encoder.mlp_norm) == 2_154_720
    out = encoder.eval()(ecg(1, leads=12))
    assert [tuple(level.map.shape[1:]) for level in out.levels] == [(128, 320), (256, 40), (320, 20)]
    assert out.pooled.shape == (1, 640)
    assert out.tokens.shape == (1, 10, 640)
    assert count(medm2t_ecg.build(plan, ModelPlan(), None)) < 200_000


@pytest.mark.parametrize(
    ("rate", "samples", "first"), [(125, 640, 640), (500, 5000, 1250), (100, 1000, 1000), (125, 9, 9)]
)
def test_ecg_of_any_length(rate: float, samples: int, first: int) -> None:
    encoder = Medm2tEcg(leads=2, rate=rate, sizes=TINY).eval()
    inputs = ecg(2, samples=samples)
    assert encoder.stem(inputs).map.shape[-1] == first
    out = encoder(inputs)
    assert out.tokens.shape == (2, 10, 48)
    assert out.pooled.shape == (2, 48)


def test_tokens_of_the_ecg_are_in_order_of_time() -> None:
    """Far from the norms, which see the whole record: the gradient of a token comes from its own half second."""
    encoder = Medm2tEcg(leads=2, rate=125, sizes=TINY).eval()
    for module in encoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    inputs = ecg(1)
    inputs["signal"] = inputs["signal"] - inputs["signal"].mean(-1, keepdim=True)
    inputs["signal"].requires_grad_()
    tokens = encoder(inputs).tokens
    for i in (0, 4, 9):
        (slope,) = torch.autograd.grad(tokens[0, i].sum(), inputs["signal"], retain_graph=True)
        weight = (slope[0] - slope[0].median(-1, keepdim=True).values).abs().sum(0)
        centre = float((weight * torch.arange(640)).sum() / weight.sum())
        assert abs(centre - (64 * i + 31.5)) < 48


def test_missing_leads_do_not_matter() -> None:
    encoder = Medm2tEcg(leads=3, rate=125, sizes=TINY).eval()
    inputs = ecg(2, leads=3)
    inputs["lead_mask"][0, 1] = False
    zero, junk = inputs["signal"].clone(), inputs["signal"].clone()
    zero[0, 1], junk[0, 1] = 0.0, float("nan")
    one, two, full = (encoder({**inputs, "signal": x}).pooled for x in (zero, junk, inputs["signal"]))
    assert torch.equal(one, two)
    assert torch.equal(one, full)
    inputs["lead_mask"][0, 1] = True
    assert not torch.allclose(encoder(inputs).pooled[0], one[0])


# --- sparse series -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "lstm"), [(512, 3_153_920), (256, 790_528), (128, 198_656)])
def test_bilstm_has_the_published_size(width: int, lstm: int) -> None:
    plan = ModalityPlan(kind="events", fields=("sbp", "gcs"), hours=24)
    encoder = sparse_series.build(plan, ModelPlan(preset="paper", width=width), None)
    assert count(*encoder.stages[:2]) == lstm
    assert encoder(series(1, 48, 2) | {"values": torch.zeros(1, 48, 2)}).tokens.shape == (1, 24, width)


@pytest.mark.parametrize(("bins", "windows"), [(5, 5), (48, 24), (50, 24)])
def test_window_means_equal_a_loop_over_tokens(bins: int, windows: int) -> None:
    encoder = SparseSeries(fields=3, bins=bins, width=8, dropout=0.0).double()
    inputs = series(4, bins, 3, share=0.1)
    inputs["observed"][0] = False
    inputs["observed"][1, : bins // 2] = False
    inputs["values"][2, 0, 0] = float("nan")
    inputs["observed"][2, 0, 0] = False
    found = encoder.windows(inputs["values"], inputs["observed"])
    assert found.shape == (4, windows, 8)
    values, sources = encoder.values.weight.detach() * 50, encoder.sources.weight.detach() * 50
    for row in range(4):
        tokens: list[tuple[int, Tensor]] = []
        for b in range(bins):
            for f in range(3):
                if inputs["observed"][row, b, f]:
                    above = sum(float(inputs["values"][row, b, f]) > cut for cut in CUTS)
                    tokens.append((b, values[f * VALUES + above] * sources[f]))
        for w in range(windows):
            seen = [token for b, token in tokens if (b + 1) * windows <= (w + 1) * bins]
            mean = torch.stack(seen).mean(0) if seen else values[-1] * sources[-1]
            torch.testing.assert_close(found[row, w].detach(), mean, rtol=1e-12, atol=1e-12)


def test_layers_equal_torchs_bidirectional_lstm_and_its_last_step_is_pooled() -> None:
    encoder = SparseSeries(fields=2, bins=6, width=10, dropout=0.0).double().eval()
    oracle = nn.LSTM(10, 5, num_layers=2, bidirectional=True, batch_first=True).double()
    for k in range(2):
        for lstm, suffix in ((encoder.stages[k].ahead, f"l{k}"), (encoder.stages[k].back, f"l{k}_reverse")):
            for part, ending in ((lstm.input, "ih"), (lstm.recurrent, "hh")):
                part.load_state_dict(
                    {
                        "weight": getattr(oracle, f"weight_{ending}_{suffix}"),
                        "bias": getattr(oracle, f"bias_{ending}_{suffix}"),
                    }
                )
    state = encoder.stem(series(3, 6, 2))
    out = encoder.run_stage(1, encoder.run_stage(0, state))
    expected = oracle(state.map.transpose(1, 2))[0]
    torch.testing.assert_close(out.map.transpose(1, 2), expected, rtol=1e-10, atol=1e-12)
    mlp = encoder.stages[2]
    inner = torch.relu(mlp.norm1(mlp.inner(expected[:, -1])))
    pooled = encoder.finish(encoder.run_stage(2, out)).pooled
    torch.testing.assert_close(pooled, torch.relu(mlp.norm2(mlp.outer(inner))), rtol=1e-9, atol=1e-11)


def test_words_of_a_concept_and_the_ends_of_a_range_have_bins_of_their_own() -> None:
    cuts = torch.tensor(CUTS)
    for c in map(concept, names()):
        words = scale(torch.tensor(sorted(c.codes.values()), dtype=torch.float64).numpy(), c)
        assert len(torch.bucketize(torch.from_numpy(words), cuts).unique()) == len(c.codes), c.name
    ends = scale(torch.tensor([79.9, 80.0, 180.0, 180.1], dtype=torch.float64).numpy(), concept("sbp"))
    assert torch.bucketize(torch.from_numpy(ends), cuts).tolist() == [0, 1, 9, 10]


# --- dense series ------------------------------------------------------------------------------------------------


def test_macro_network_has_the_published_size() -> None:
    plan = ModalityPlan(kind="events", fields=tuple(f"f{i}" for i in range(8)), hours=24)
    encoder = hierarchical_series.build(plan, ModelPlan(preset="paper", width=512, heads=64), None)
    assert count(encoder.conv, encoder.macro, encoder.norm1) == 1_735_680
    assert count(encoder.mlp, encoder.norm2) == 590_592
    assert count(encoder.token) == 49_408
    out = encoder.eval()({"values": torch.zeros(1, 48, 8), "observed": torch.ones(1, 48, 8, dtype=torch.bool)})
    assert [tuple(level.map.shape[1:]) for level in out.levels] == [(384, 24), (384, 24), (192, 12)]
    assert count(hierarchical_series.build(plan, ModelPlan(), None)) < 100_000


@pytest.mark.parametrize("bins", [1, 2, 3, 6, 20, 25, 48, 288, 600, 4096])
def test_segments_leave_no_bin_out(bins: int) -> None:
    short, long = HierarchicalSeries(fields=1, bins=bins, sizes=SMALL, dropout=0.0).segments
    assert len(short) == len(long) <= 24
    assert {b for each in short for b in each} == set(range(bins))
    assert {b for each in long for b in each} == set(range(bins))
    if bins == 48:
        assert (len(short), len(short[0]), len(long[0])) == (24, 12, 24)
        assert [each[0] for each in short] == [round(i * 36 / 23) for i in range(24)]  # stride (L - w) / 23
        assert [each[0] for each in long] == [round(i * 24 / 23) for i in range(24)]


def test_channel_attention_equals_a_loop() -> None:
    layer = ChannelAttention(channels=3, features=5).double()
    values, fresh = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 3, 4) < 0.5
    seen = torch.rand(2, 3, 4) < 0.6
    seen[0, :, 0], seen[0, :, 1] = False, torch.tensor([True, False, False])
    values = torch.where(seen, values, 0.0)
    found = layer(values, fresh & seen, seen)
    maps = {name: (m.weight[:, :, 0], m.bias) for name, m in layer.named_children()}
    for b in range(2):
        for t in range(4):
            token = {}
            for c in range(3):
                own = torch.stack([values[b, c, t], (fresh & seen)[b, c, t].double(), seen[b, c, t].double()])
                token[c] = maps["tokens"][0][8 * c : 8 * c + 8] @ own
            there = [c for c in range(3) if seen[b, c, t]]
            parts = []
            for c in range(3):
                if c not in there:
                    parts.append(torch.zeros(8, dtype=torch.float64))
                    continue
                query = maps["query"][0] @ token[c] + maps["query"][1]
                heads = []
                for h in range(4):
                    at = slice(2 * h, 2 * h + 2)
                    keys = [torch.zeros(2, dtype=torch.float64)] + [(maps["key"][0] @ token[d])[at] for d in there]
                    answers = [torch.zeros(2, dtype=torch.float64)]
                    answers += [(maps["value"][0] @ token[d] + maps["value"][1])[at] for d in there]
                    weights = torch.stack([query[at] @ k / 2**0.5 for k in keys]).softmax(0)
                    heads.append(sum(w * a for w, a in zip(weights, answers, strict=True)))
                parts.append(token[c] + torch.cat(heads))
            expected = maps["out"][0] @ torch.cat(parts) + maps["out"][1]
            torch.testing.assert_close(found[b, :, t], expected, rtol=1e-10, atol=1e-12)


def test_segments_are_encoded_one_by_one() -> None:
    """Without the norms, which see all segments of a patient, each is what it would be alone."""
    encoder = HierarchicalSeries(fields=2, bins=48, sizes=SMALL, dropout=0.0).double().eval()
    network = encoder.micro[1]
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.randn(2, 8, 5, 24, dtype=torch.float64)
    found = network(x)
    for i in range(5):
        torch.testing.assert_close(found[:, i], network(x[:, :, i : i + 1])[:, 0], rtol=1e-10, atol=1e-12)
    at = encoder.segments[1]
    torch.testing.assert_close(x.flatten(2)[:, :, at][0, 3, 7], x.flatten(2)[0, 3, at[7][0] : at[7][-1] + 1])


def test_segments_before_the_first_measurement_are_empty() -> None:
    encoder = HierarchicalSeries(fields=2, bins=48, sizes=SMALL, dropout=0.0).double().eval()
    inputs = series(2, 48, 2)
    inputs["observed"][0, :40] = False
    inputs["observed"][0, 40, 0] = inputs["observed"][1, 0, 1] = True
    stem = encoder.stem(inputs)
    assert stem.mask is not None
    assert stem.mask[0].tolist() == [False] * 40 + [True] * 8
    micro = encoder.run_stage(0, stem)
    assert micro.mask is not None
    ends = [each[-1] for each in encoder.segments[1]]  # the long ones reach further
    assert micro.mask[0].tolist() == [end >= 40 for end in ends]
    assert micro.mask[1].all()
    assert not micro.map[0][:, ~micro.mask[0]].any()
    out = encoder(inputs)
    assert out.token_mask[0].tolist() == [bool(micro.mask[0, 2 * i : 2 * i + 2].any()) for i in range(12)]
    junk = inputs["values"].masked_fill(~inputs["observed"], float("nan"))
    again = encoder({**inputs, "values": junk})
    assert torch.equal(again.pooled, out.pooled)
    assert torch.equal(again.tokens, out.tokens)
