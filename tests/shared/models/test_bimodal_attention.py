"""Bi-modal attention against a float64 loop, torch's own attention and published counts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fl_shared.models.fusion.bimodal_attention import BimodalAttentionFusion, BimodalPair, CrossBlock, build
from fl_shared.models.interface import EncoderOutput, FusionSpec
from fl_shared.study import ModelPlan


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def fusion_of(names: tuple[str, ...], **model: object) -> BimodalAttentionFusion:
    plan = ModelPlan.model_validate({"width": 16, "heads": 4, **model})
    return build(FusionSpec(modalities=names, widths=dict.fromkeys(names, plan.width), levels={}, tasks={}, model=plan))


def outputs_of(n: int, lengths: Mapping[str, int], *, width: int = 16) -> dict[str, EncoderOutput]:
    found = {}
    for name, length in lengths.items():
        mask = torch.rand(n, length) < 0.7
        mask[:, 0] = True
        found[name] = EncoderOutput(
            pooled=torch.randn(n, width, dtype=torch.float64),
            tokens=torch.randn(n, length, width, dtype=torch.float64),
            token_mask=mask,
        )
    return found


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomised(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double().eval()


def test_counts_are_the_papers() -> None:
    five = fusion_of(("a", "b", "c", "d", "e"), preset="paper", width=512, heads=64)
    bias_of_a_key = 512
    assert count(five.shared) == 262_656
    assert count(five.pairs["a@b"].ahead) == 3_152_384 - bias_of_a_key
    assert count(five.pairs["a@b"]) == 6_304_768 - 2 * bias_of_a_key
    assert count(five.pairs) == 10 * count(five.pairs["a@b"]) == pytest.approx(63.0e6, rel=0.01)
    assert five.decoder.in_features == 7_680
    assert five.out_features == 3_840
    assert count(five.decoder, five.norm) == pytest.approx(29.5e6, rel=0.01)
    three = fusion_of(("a", "b", "c"), preset="paper", width=512, heads=64)
    assert count(three.pairs) == pytest.approx(18.9e6, rel=0.01)
    assert three.decoder.in_features == 3_072
    assert count(three.decoder, three.norm) == pytest.approx(4.73e6, rel=0.01)


def test_a_block_equals_a_loop() -> None:
    block = randomised(CrossBlock(width=6, heads=3, dropout=0.0)).requires_grad_(False)
    assert isinstance(block, CrossBlock)
    x, y = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    found = block(x, y, mask)

    def line(layer: nn.Linear, v: Tensor) -> Tensor:
        return layer.weight @ v + (0 if layer.bias is None else layer.bias)

    def normed(layer: nn.LayerNorm, v: Tensor) -> Tensor:
        return (v - v.mean()) / (v.var(unbiased=False) + 1e-6).sqrt() * layer.weight + layer.bias

    for b in range(2):
        for t in range(3):
            query, answer = line(block.query, x[b, t]), torch.zeros(6, dtype=torch.float64)
            for h in range(3):
                at = slice(2 * h, 2 * h + 2)
                scores = [float(query[at] @ line(block.key, y[b, s])[at]) / 2**0.5 for s in range(4)]
                raised = [torch.tensor(score, dtype=torch.float64).exp() * mask[b, s] for s, score in enumerate(scores)]
                for s in range(4):
                    answer[at] += raised[s] / sum(raised) * line(block.value, y[b, s])[at]
            one = normed(block.norm1, x[b, t] + line(block.out, answer))
            inner = line(block.inner, one)
            inner = torch.where(inner > 0, inner, 0.01 * inner)
            expected = normed(block.norm2, one + line(block.outer, inner))
            torch.testing.assert_close(found[b, t], expected, rtol=1e-9, atol=1e-11)


def test_attention_equals_torchs_multi_head_attention() -> None:
    block = randomised(CrossBlock(width=16, heads=4, dropout=0.0))
    assert isinstance(block, CrossBlock)
    oracle = nn.MultiheadAttention(16, 4, batch_first=True).double()  # noqa: TID251 - the oracle
    weights = [block.query.weight, block.key.weight, block.value.weight]
    biases = [block.query.bias, torch.randn(16, dtype=torch.float64), block.value.bias]  # a key's bias is ignored
    oracle.load_state_dict(
        {
            "in_proj_weight": torch.cat(weights),
            "in_proj_bias": torch.cat(biases),
            "out_proj.weight": block.out.weight,
            "out_proj.bias": block.out.bias,
        }
    )
    x, y = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(3, 7, 16, dtype=torch.float64)
    mask = torch.rand(3, 7) < 0.6
    mask[:, 2] = True
    h = block.norm1(x + oracle(x, y, y, key_padding_mask=~mask, need_weights=False)[0])
    expected = block.norm2(h + block.outer(nn.functional.leaky_relu(block.inner(h))))
    torch.testing.assert_close(block(x, y, mask), expected, rtol=1e-9, atol=1e-11)


def test_a_pair_adds_both_directions() -> None:
    pair = randomised(BimodalPair(width=16, heads=4, dropout=0.0))
    assert isinstance(pair, BimodalPair)
    a, b = torch.randn(1, 4, 16, dtype=torch.float64), torch.randn(1, 3, 16, dtype=torch.float64)
    a_mask, b_mask = torch.tensor([[True, True, False, True]]), torch.tensor([[True, True, True]])
    ahead, back = pair.ahead(a, b, b_mask), pair.back(b, a, a_mask)
    expected = (ahead[:, 1] + ahead[:, 3]) / 2 + (back[:, 1] + back[:, 2]) / 2
    torch.testing.assert_close(pair(a, a_mask, b, b_mask), expected)
    assert not torch.allclose(ahead[:, 1], back[:, 1])


def test_the_whole_equals_its_parts() -> None:
    fusion = randomised(fusion_of(("a", "b", "c"), dropout=0.0))
    assert isinstance(fusion, BimodalAttentionFusion)
    outputs = outputs_of(2, {"a": 3, "b": 2, "c": 4})
    here = torch.ones(2, dtype=torch.bool)
    present = {"a": here, "b": here, "c": torch.tensor([True, False])}

    def shared(x: Tensor) -> Tensor:
        return torch.relu(fusion.shared(x))

    rows = []
    for row in range(2):
        parts, full, masks = [], {}, {}
        for k, name in enumerate("abc"):
            out, there = outputs[name], bool(present[name][row])
            none = fusion.none.weight[k]
            parts.append(shared(out.pooled[row] if there else none))
            full[name] = shared(torch.cat([none[None], out.tokens[row]]))[None]
            masks[name] = torch.cat([torch.tensor([True]), out.token_mask[row]])[None]
        for x, y in (("a", "b"), ("a", "c"), ("b", "c")):
            both = bool(present[x][row] and present[y][row])
            found = fusion.pairs[f"{x}@{y}"](full[x], masks[x], full[y], masks[y])[0]
            parts.append(found if both else torch.zeros(16, dtype=torch.float64))
        rows.append(torch.relu(fusion.norm(fusion.decoder(torch.cat(parts)))))
    torch.testing.assert_close(fusion(outputs, present).fused, torch.stack(rows), rtol=1e-9, atol=1e-10)


def test_what_asks_matters_with_one_token_a_modality() -> None:
    """The paper's form fails this: one key's softmax is 1, so the answer ignores who asks."""
    block = randomised(CrossBlock(width=16, heads=4, dropout=0.0))
    pair = BimodalPair(width=16, heads=4, dropout=0.0)
    pair.ahead = block  # type: ignore[assignment]
    seen: list[Tensor] = []
    pair.ahead.out.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    pair.double().eval()
    mask = torch.ones(1, 2, dtype=torch.bool)
    b = torch.randn(1, 2, 16, dtype=torch.float64)
    for _ in range(2):
        pair(torch.randn(1, 2, 16, dtype=torch.float64), mask, b, mask)
    assert (seen[0] - seen[1]).abs().max() > 1e-2


def test_absent_modalities_and_masked_tokens_do_not_matter_whatever_they_hold() -> None:
    fusion = randomised(fusion_of(("a", "b")))
    outputs = outputs_of(4, {"a": 3, "b": 2})
    outputs["a"].token_mask[0] = False  # present, without any valid token
    present = {"a": torch.tensor([True, False, True, True]), "b": torch.tensor([True, True, False, True])}
    first = fusion(outputs, present).fused
    for name, out in outputs.items():
        out.pooled[~present[name]] = float("nan")
        out.tokens[~(out.token_mask & present[name][:, None])] = float("nan")
    assert torch.equal(fusion(outputs, present).fused, first)
    assert first.isfinite().all()


def test_a_single_modality_has_no_pair() -> None:
    fusion = fusion_of(("a",)).double().eval()
    assert fusion.out_features == 8
    assert fusion(outputs_of(3, {"a": 1}), {"a": torch.ones(3, dtype=torch.bool)}).fused.shape == (3, 8)
