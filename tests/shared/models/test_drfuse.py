"""DrFuse against float64 loops over its formulas."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from acceptance import Case, of
from random_rows import random_rows
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.fusion.disentangled import logit_pool, overlap, shared_divergence
from fl_shared.models.fusion.drfuse import DrFuseFusion, OutputAttention, build
from fl_shared.models.interface import Batch, EncoderOutput, FusionOutput, FusionSpec, Ranked
from fl_shared.models.model import MultimodalModel
from fl_shared.models.ranking import attention_ranking
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan

MODALITIES, WIDTHS, WIDTH = ("cxr", "ecg", "ehr"), {"cxr": 5, "ecg": 4, "ehr": 6}, 8
TASKS = {"death": 1, "pheno": 3}
SETS = torch.tensor([p for p in product([False, True], repeat=3) if any(p)])  # all 7
D = 6


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def vectors(seed: int = 0) -> Tensor:
    return 2 * torch.randn(len(SETS), 3, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spoilt(x: Tensor) -> Tensor:
    """Other numbers where a modality is absent."""
    return x.masked_fill(~SETS[..., None], 9.0)


def test_pooling_is_the_logit_of_the_mean_probability() -> None:
    x = vectors()
    found = logit_pool(x, SETS)
    for row, there in enumerate(SETS):
        for k in range(D):
            each = [sigmoid(float(z)) for z in x[row, there, k]]
            mean = sum(each) / len(each)
            assert float(found[row, k]) == pytest.approx(math.log(mean / (1 - mean)), abs=1e-12)
    torch.testing.assert_close(found[SETS.sum(1) == 1], x[SETS & (SETS.sum(1) == 1)[:, None]])  # one alone is its own
    assert torch.equal(logit_pool(spoilt(x), SETS), found)


def test_pooling_holds_far_from_zero_and_sends_finite_gradients() -> None:
    x = torch.tensor([[[300.0, -300.0], [-300.0, -200.0], [0.0, 0.0]]], requires_grad=True)
    found = logit_pool(x, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, -200 - math.log(2)]]))  # logit(1/2), log(e^-200 / 2)
    found.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert not bool(x.grad[0, 2].any())


def test_the_divergence_is_that_of_bernoulli_variables() -> None:
    x = vectors()
    found = shared_divergence(x, SETS)
    for row, there in enumerate(SETS):
        total = 0.0
        for k in range(D):
            each = [sigmoid(float(z)) for z in x[row, there, k]]
            total += entropy(sum(each) / len(each)) - sum(map(entropy, each)) / len(each)
        assert float(found[row]) == pytest.approx(total, abs=1e-12)
    assert torch.equal(found == 0, SETS.sum(1) == 1)
    assert torch.equal(shared_divergence(spoilt(x), SETS), found)


def test_two_certain_opposites_are_one_bit_apart() -> None:
    x = torch.tensor([[[50.0], [-50.0]], [[50.0], [50.0]]])
    found = shared_divergence(x, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([math.log(2), 0.0]))


def test_the_overlap_sums_absolute_cosines() -> None:
    a, b = vectors(1), vectors(2)
    found = overlap(a, b, SETS)
    for row, there in enumerate(SETS):
        pairs = [(a[row, m], b[row, m]) for m in range(3) if there[m]]
        cosines = [abs(float(x @ y)) / math.sqrt(float(x @ x) * float(y @ y)) for x, y in pairs]
        assert float(found[row]) == pytest.approx(sum(cosines), abs=1e-12)


@torch.no_grad()
def test_attention_is_a_softmax_an_output_over_the_valid_representations() -> None:
    torch.manual_seed(0)
    layer = OutputAttention(width=D, outputs=2).double()
    x, valid = vectors(), torch.cat([torch.ones(len(SETS), 1, dtype=torch.bool), SETS[:, 1:]], dim=1)
    found, weights = layer(spoilt(x), valid)
    w_q, w_k, w_v = layer.query.weight, layer.key.weight.view(2, D, D), layer.value.weight
    for row, there in enumerate(valid):
        own = spoilt(x)[row, there]
        query = torch.stack([w_q @ v + layer.query.bias for v in own]).mean(0)
        for c in range(2):
            scores = [math.exp(float(query @ (w_k[c] @ v)) / math.sqrt(D)) for v in own]
            shares = [s / sum(scores) for s in scores]
            assert weights[row, c, there].tolist() == pytest.approx(shares, rel=1e-10)
            assert float(weights[row, c, ~there].sum()) == 0
            expected = sum(s * (w_v @ v + layer.value.bias) for s, v in zip(shares, own, strict=True))
            torch.testing.assert_close(found[row, c], expected)


def cross_entropy(z: float, y: float) -> float:
    return math.log1p(math.exp(z)) - y * z


def test_ranking_is_what_better_representations_lack() -> None:
    g = torch.Generator().manual_seed(3)
    attention = torch.rand(7, 2, 3, generator=g, dtype=torch.float64).softmax(2).requires_grad_()
    logits = torch.randn(7, 2, 3, generator=g, dtype=torch.float64).requires_grad_()
    target = (torch.rand(7, 2, generator=g) < 0.5).double()
    mask = torch.rand(7, 2, generator=g) < 0.7
    mask[0], mask[1] = False, True
    ranked = Ranked(task="pheno", attention=attention, logits=logits, valid=SETS)
    found = attention_ranking(ranked, target.masked_fill(~mask, float("nan")), mask)
    for row, there in enumerate(SETS):
        terms = []
        own = [k for k in range(3) if there[k]]
        for c, i, j in product(range(2), own, own):
            if i < j and mask[row, c]:
                a, b = (cross_entropy(logits[row, c, k].item(), target[row, c].item()) for k in (i, j))
                first, second = (i, j) if a < b else (j, i)
                terms.append(max(0.0, (attention[row, c, second] - attention[row, c, first]).item()))
        assert found[row].item() == pytest.approx(sum(terms) / max(len(terms), 1), abs=1e-12)
    assert found.max().item() > 0
    found.sum().backward()
    assert logits.grad is None  # errors are constants
    assert attention.grad is not None
    assert bool(attention.grad.isfinite().all())
    assert bool(attention.grad.any())


def made() -> DrFuseFusion:
    spec = FusionSpec(
        modalities=MODALITIES, widths=WIDTHS, levels={}, tasks=TASKS, model=ModelPlan(width=WIDTH, heads=2)
    )
    torch.manual_seed(4)
    return build(spec).double().eval()


def given(seed: int = 5) -> dict[str, EncoderOutput]:
    g = torch.Generator().manual_seed(seed)
    outputs = {}
    for m in MODALITIES:
        x = torch.randn(len(SETS), WIDTHS[m], generator=g, dtype=torch.float64)
        outputs[m] = EncoderOutput(pooled=x, tokens=x[:, None], token_mask=torch.ones(len(x), 1, dtype=torch.bool))
    return outputs


def run(fusion: DrFuseFusion, outputs: dict[str, EncoderOutput]) -> FusionOutput:
    found: FusionOutput = fusion(outputs, dict(zip(MODALITIES, SETS.unbind(1), strict=True)))
    return found


def test_the_whole_of_it_row_by_row_on_what_the_row_has() -> None:
    """Against the same parts put together for one row, from the modalities that it has alone."""
    fusion, outputs = made(), given()
    found = run(fusion, outputs)
    first, second, third = (fusion.projector[k] for k in (0, 2, 4))
    for row, there in enumerate(SETS):
        own = [m for m in MODALITIES if there[MODALITIES.index(m)]]
        x = {m: outputs[m].pooled[row] for m in own}
        shared = [third(F.relu(second(F.relu(first(fusion.shared[m](x[m])))))) for m in own]
        distinct = [fusion.distinct[m](x[m]) for m in own]
        mean = torch.stack(shared).sigmoid().mean(0)
        keys = torch.stack([(mean / (1 - mean)).log(), *distinct])[None]
        vectors, weights = fusion.attention(keys, torch.ones(1, len(own) + 1, dtype=torch.bool))
        per_class = torch.cat([found.per_class[t][row] for t in TASKS])
        torch.testing.assert_close(per_class, vectors[0])
        valid = torch.cat([torch.tensor([True]), there])
        torch.testing.assert_close(torch.cat([r.attention[row] for r in found.ranked])[:, valid], weights[0])
        heads = [fusion.shared_heads, *(fusion.distinct_heads[m] for m in own)]
        for ranked in found.ranked:
            alone = [head(v)[ranked.task] for head, v in zip(heads, keys[0], strict=True)]
            torch.testing.assert_close(ranked.logits[row][:, valid], torch.stack(alone, dim=1))
    assert {t: tuple(v.shape) for t, v in found.per_class.items()} == {"death": (7, 1, WIDTH), "pheno": (7, 3, WIDTH)}


def test_each_representation_alone_is_trained_on_the_rows_that_have_it() -> None:
    found = run(made(), given())
    assert found.auxiliary.keys() == found.losses.keys() == {"tasks"}
    for task, n in TASKS.items():
        own = [aux for aux in found.auxiliary["tasks"] if aux.task == task]
        assert [aux.rows.tolist() for aux in own] == [[True] * 7, *SETS.T.tolist()]
        assert {tuple(aux.logits.shape) for aux in own} == {(7, n)}


def whole_model(**tasks: dict[str, Any]) -> tuple[MultimodalModel, Batch]:
    """DrFuse's model of a study, and rows."""
    case = Case(
        name="drfuse",
        modalities={kind: of(kind) for kind in ("waveform", "table")},
        tasks=tasks,
        model={"system": "baselines", "fusion": "drfuse"},
    )
    study, model = case.quiet()
    return model.eval(), random_rows(study, 16, dtype=torch.float64)


@torch.no_grad()
def test_the_loss_is_the_sum_of_all_its_parts() -> None:
    """Of a row: final, shared and lone predictions, divergence, overlap; ranking of the task with labels only."""
    pheno = {"type": "multilabel", "labels": ["a", "b", "c"], "weight": 2.0}
    model, batch = whole_model(pheno=pheno, stay={"type": "regression"})
    found = model(batch)
    names = list(model.encoders)
    outputs = {m: model._adapt(m, model.encode(m, batch), batch.present[m]) for m in names}
    fused = model.fusion(outputs, batch.present)
    there = torch.stack([batch.present[m] for m in names], dim=1)
    expected = fused.losses["tasks"].clone()
    for ranked in fused.ranked:
        task = ranked.task
        y, known = batch.targets[task], batch.target_mask[task]
        head, weight = model.heads[task].linear, 2.0 if task == "pheno" else 1.0
        final = torch.einsum("bcd,cd->bc", fused.per_class[task], head.weight) + head.bias
        torch.testing.assert_close(found.logits[task], final)
        for k, z in enumerate([final, *ranked.logits.unbind(2)]):
            rows = torch.ones_like(there[:, 0]) if k < 2 else there[:, k - 2]
            counts = known & rows[:, None]
            if task == "pheno":
                each = F.binary_cross_entropy_with_logits(z, y, reduction="none")
                loss = torch.where(counts, each, 0.0).sum(1) / counts.sum(1).clamp(min=1)
            else:
                loss = torch.where(counts, (z - y) ** 2, 0.0).sum(1)
            expected += weight * loss
        if task == "pheno":
            expected += weight * attention_ranking(ranked, y, known)
    torch.testing.assert_close(model.losses(found, batch), expected)


@pytest.mark.parametrize("form", ["linear", "mlp"])
def test_an_output_is_read_off_its_own_vector(form: str) -> None:
    torch.manual_seed(0)
    task = TaskPlan(type="multilabel", labels=("a", "b", "c"))
    head = HEADS.get("multilabel", key="").build(task, WIDTH, ModelPlan(head=form)).eval()
    x = torch.randn(4, 3, WIDTH)
    given = FusionOutput(fused=torch.zeros(4, WIDTH), per_class={"pheno": x})
    each = [head(FusionOutput(fused=x[:, c]))[:, c] for c in range(3)]
    torch.testing.assert_close(head(given.of("pheno")), torch.stack(each, dim=1))
    assert torch.equal(given.of("death").fused, given.fused)


def test_published_sizes() -> None:
    """Of the projector, and of the map to query, value and 25 keys, but for the keys' biases."""
    labels, d = 25, 256
    spec = FusionSpec(
        modalities=("cxr", "ehr"),
        widths={"cxr": 512, "ehr": d},
        levels={},
        tasks={"pheno": labels},
        model=ModelPlan(width=d),
    )
    fusion = build(spec)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in fusion.named_children()}
    assert count["projector"] == (d + 1) * 2 * d + (2 * d + 1) * d + (d + 1) * d
    assert count["attention"] == (d + 1) * (2 + labels) * d - labels * d
