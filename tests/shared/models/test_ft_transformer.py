"""FT-Transformer against its authors' library, with the same weights; and what is missing."""

from __future__ import annotations

import pytest
import torch
from rtdl_revisiting_models import FTTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared import concepts
from fl_shared.models.encoders.ft_transformer import FtTransformer, build
from fl_shared.study import ModalityPlan, ModelPlan

FIELDS = ("nyha", "age", "sex", "bmi", "lvef", "smoking")
NUMBERS, WORDS = (1, 3, 4), {0: 4, 2: 2, 5: 3}
WIDTH, HEADS = 24, 4


@pytest.fixture
def encoder() -> FtTransformer:
    torch.manual_seed(0)
    plan = ModalityPlan(kind="table", fields=FIELDS)
    encoder = build(plan, ModelPlan(width=WIDTH, heads=HEADS, dropout=0.0), None).double()
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.3)  # norms too: nothing may look right for being 0 or 1
    return encoder


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(7, len(FIELDS), dtype=torch.float64, generator=g)
    for f in WORDS:
        by = concepts.concept(FIELDS[f])
        codes = torch.tensor(sorted(by.codes.values()))[torch.randint(0, WORDS[f], (7,), generator=g)]
        values[:, f] = torch.from_numpy(concepts.scale(codes.numpy(), by)).double()
    return {"values": values, "observed": torch.ones(7, len(FIELDS), dtype=torch.bool)}


def library(encoder: FtTransformer) -> FTTransformer:
    """Theirs, with our weights; fields in their order, numbers first."""
    theirs = FTTransformer(
        n_cont_features=len(NUMBERS),
        cat_cardinalities=list(WORDS.values()),
        d_out=WIDTH,
        n_blocks=3,
        d_block=WIDTH,
        attention_n_heads=HEADS,
        attention_dropout=0.0,
        ffn_d_hidden=None,
        ffn_d_hidden_multiplier=4 / 3,
        ffn_dropout=0.0,
        residual_dropout=0.0,
    ).double()
    sizes = [WORDS.get(f, 1) + 1 for f in range(len(FIELDS))]
    rows = [encoder.fields.table.weight[sum(sizes[:f]) : sum(sizes[: f + 1]) - 1] for f in range(len(FIELDS))]
    state = {
        "cls_embedding.weight": encoder.readout.weight[0],
        "cont_embeddings.weight": encoder.fields.scale.weight,
        "cont_embeddings.bias": torch.cat([rows[f] for f in NUMBERS]),
        "cat_embeddings.bias": torch.zeros(len(WORDS), WIDTH),
        **{f"cat_embeddings.embeddings.{k}.weight": rows[f] for k, f in enumerate(WORDS)},
        "backbone.output.normalization.weight": encoder.norm.weight,
        "backbone.output.normalization.bias": encoder.norm.bias,
        "backbone.output.linear.weight": torch.eye(WIDTH),
        "backbone.output.linear.bias": torch.zeros(WIDTH),
    }
    names = {"W_q": "query", "W_k": "key", "W_v": "value", "W_out": "out"}
    for i, block in enumerate(encoder.stages):
        at = f"backbone.blocks.{i}"
        parts = {f"attention.{k}": getattr(block.attention, v) for k, v in names.items()}
        parts |= {"ffn.linear1": block.inner, "ffn.linear2": block.outer, "ffn_normalization": block.norm2}
        parts |= {"attention_normalization": block.norm1} if i else {}
        for name, layer in parts.items():
            state[f"{at}.{name}.weight"] = layer.weight
            state[f"{at}.{name}.bias"] = torch.zeros(WIDTH) if layer.bias is None else layer.bias
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def test_numbers_and_gradients_are_those_of_the_authors_library(
    encoder: FtTransformer, inputs: dict[str, Tensor]
) -> None:
    theirs = library(encoder)
    values = inputs["values"]
    words = torch.stack([encoder.fields.categories(values, inputs["observed"])[:, f] for f in WORDS], dim=1)
    sizes = [WORDS.get(f, 1) + 1 for f in range(len(FIELDS))]
    words = words - torch.tensor([sum(sizes[:f]) for f in WORDS])
    ours, other = (values.clone().requires_grad_() for _ in range(2))
    found = F.relu(encoder({**inputs, "values": ours}).pooled)
    expected = theirs(other[:, NUMBERS], words)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert float(expected.detach().std()) > 0.1
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-9, atol=1e-11)


def test_a_missing_value_is_a_vector_of_its_field(encoder: FtTransformer, inputs: dict[str, Tensor]) -> None:
    observed = inputs["observed"].clone()
    observed[2, 1] = observed[3, 2] = False
    hidden = {"values": torch.where(observed, inputs["values"], float("nan")), "observed": observed}
    tokens, whole = (encoder.fields(x["values"], x["observed"]) for x in (hidden, inputs))
    torch.testing.assert_close(tokens[2, 1], encoder.fields.table.weight[5 + 1])  # after nyha's five rows, age's own
    torch.testing.assert_close(tokens[3, 2], encoder.fields.table.weight[5 + 2 + 2])
    same = torch.ones_like(observed)
    same[2, 1] = same[3, 2] = False
    assert torch.equal(tokens[same], whole[same])
    mean = {"values": torch.zeros_like(inputs["values"]), "observed": inputs["observed"]}
    gone = {**mean, "observed": torch.zeros_like(observed)}
    assert not torch.allclose(encoder(mean).pooled, encoder(gone).pooled)


def test_published_sizes_and_dropout() -> None:
    paper = build(ModalityPlan(kind="table", fields=FIELDS), ModelPlan(preset="paper"), None)
    assert (paper.width, paper.stages[0].attention.heads, paper.stages[0].outer.in_features) == (192, 8, 256)
    assert (paper.stages[1].attention.dropout.p, paper.stages[1].dropout.p) == (0.2, 0.1)
    assert isinstance(paper.stages[0].norm1, nn.Identity)


def test_a_table_of_words_alone_has_no_numbers_to_scale() -> None:
    words = build(ModalityPlan(kind="table", fields=("sex", "nyha")), ModelPlan(width=16), None)
    out = words({"values": torch.ones(3, 2), "observed": torch.ones(3, 2, dtype=torch.bool)})
    assert out.tokens.shape == (3, 3, 16)
    assert words.fields.scale is None


def test_attention_weights_are_dropped_in_training_alone(encoder: FtTransformer, inputs: dict[str, Tensor]) -> None:
    for block in encoder.stages:
        block.attention.dropout.p = 0.5
    assert torch.equal(encoder.eval()(inputs).pooled, encoder(inputs).pooled)
    torch.manual_seed(0)
    assert not torch.allclose(encoder.train()(inputs).pooled, encoder(inputs).pooled)
