"""Segmentations: loss against MONAI and closed forms, published size, images in their place, something is learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from monai.losses import DiceCELoss
from random_rows import random_rows
from torch import Tensor, nn

from fl_shared.models.build import build_model
from fl_shared.models.decoders import dae_former, pyramid
from fl_shared.models.decoders.dae_former import DecoderStep, PatchExpand, SkipCrossAttention
from fl_shared.models.decoders.segmentation import Segmentation
from fl_shared.models.encoders import cine_cnn
from fl_shared.models.encoders.dae_blocks import MixFfn
from fl_shared.models.encoders.dae_former import SIZES, DaeFormer
from fl_shared.models.encoders.dae_former import build as build_encoder
from fl_shared.models.interface import StagedEncoder
from fl_shared.models.registry import DECODERS
from fl_shared.study import ModalityPlan, ModelPlan, Study, TaskPlan

FRAMES, SLICES = 3, 2


def cine_plan(*, slices: int = SLICES, size: int = 32) -> ModalityPlan:
    return ModalityPlan(kind="cine", frames=FRAMES, slices=slices, size=size)


def drawing(*labels: str, weights: tuple[float, ...] = ()) -> TaskPlan:
    return TaskPlan(type="segmentation", labels=labels or ("wall", "scar"), modality="cine", weights=weights)


def images(plan: ModalityPlan, *, rows: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "video": torch.randn(rows, plan.frames, plan.slices, plan.size, plan.size, generator=g),
        "frame_mask": torch.ones(rows, plan.frames, dtype=torch.bool),
        "slice_mask": torch.ones(rows, plan.slices, dtype=torch.bool),
    }


def pair(name: str, plan: ModalityPlan, task: TaskPlan | None = None) -> tuple[StagedEncoder, Segmentation]:
    torch.manual_seed(0)
    model = ModelPlan(dropout=0.0)
    encoder = cine_cnn.build(plan, model, None) if name == "pyramid" else build_encoder(plan, model, None)
    assert encoder.decoder == name
    decoder = DECODERS.get(name, key="tasks").build(task or drawing(), encoder, plan)
    assert isinstance(decoder, Segmentation)
    return encoder, decoder


def some(*, rows: int = 3, classes: int = 3, size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(rows, FRAMES, SLICES, classes, size, size, generator=g, dtype=torch.float64)
    target = torch.randint(0, classes, (rows, FRAMES, SLICES, size, size), generator=g).to(torch.uint8)
    mask = torch.rand(rows, FRAMES, SLICES, generator=g) < 0.6
    mask[0] = False
    assert mask[1:].any((1, 2)).all()
    return logits, target, mask


def decoder_of(**task: tuple[float, ...]) -> Segmentation:
    return pyramid.PyramidDecoder(drawing(**task), (8, 8, 8), cine_plan())


@pytest.mark.parametrize(("classes", "published"), [(9, 48_073_065), (2, 48_072_162)])
def test_parameters_are_the_published_ones_with_what_those_never_use(classes: int, published: int) -> None:
    encoder = DaeFormer(size=SIZES["paper"], frames=16, slices=1)
    task = drawing(*(f"l{k}" for k in range(1, classes)))
    decoder = dae_former.build(task, encoder, cine_plan())
    never_called = DecoderStep(512, 512, 256, blocks=2, scale=2)
    never_called.expand = nn.Identity()  # type: ignore[assignment]  # this is `decoder.high`
    parts = nn.ModuleList([encoder.stages, decoder, never_called])
    networks = [m for m in parts.modules() if isinstance(m, MixFfn)]
    unused_norms = sum(2 * sum(p.numel() for p in m.norm.parameters()) for m in networks)
    assert sum(p.numel() for p in parts.parameters()) + unused_norms == published


@pytest.mark.parametrize("name", ["dae_former", "pyramid"])
@pytest.mark.parametrize("size", [32, 20, 17])
def test_logits_have_their_shape_and_a_gradient_for_every_parameter(name: str, size: int) -> None:
    plan = cine_plan(size=size)
    encoder, decoder = pair(name, plan)
    logits = decoder(encoder(images(plan)).levels)
    assert logits.shape == (2, FRAMES, SLICES, 3, size, size)
    labels = decoder.predict(logits)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, logits.argmax(3))
    target = torch.ones_like(labels)
    decoder.loss(logits, target, torch.ones(2, FRAMES, SLICES, dtype=torch.bool)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_dae_former_draws_every_image_by_itself() -> None:
    plan, one = cine_plan(), cine_plan(slices=1)
    encoder, decoder = pair("dae_former", plan)
    single_encoder, single = pair("dae_former", one)
    inputs = images(plan)
    logits = decoder(encoder(inputs).levels)
    for t in range(FRAMES):
        for s in range(SLICES):
            alone = {k: v[:, :1] for k, v in inputs.items()} | {"video": inputs["video"][:, t : t + 1, s : s + 1]}
            torch.testing.assert_close(logits[:, t, s], single(single_encoder(alone).levels)[:, 0, 0])


@pytest.mark.parametrize("name", ["dae_former", "pyramid"])
def test_masked_frames_do_not_matter(name: str) -> None:
    plan = cine_plan()
    encoder, decoder = pair(name, plan)
    inputs = images(plan)
    inputs["frame_mask"][:, 2] = False
    other = {**inputs, "video": inputs["video"].clone()}
    other["video"][:, 2] = 9.0
    one, two = (decoder(encoder(x).levels) for x in (inputs, other))
    assert torch.equal(one[:, :2], two[:, :2])
    assert one.isfinite().all()


def test_subpixels_slices_and_classes_of_the_pyramid_are_in_their_place() -> None:
    encoder, decoder = pair("pyramid", cine_plan())
    assert isinstance(decoder, pyramid.PyramidDecoder)
    nn.init.zeros_(decoder.classes.weight)
    with torch.no_grad():
        decoder.classes.bias.copy_(torch.arange(2 * 2 * SLICES * 3))
        logits = decoder(encoder(images(cine_plan())).levels)
    for s in range(SLICES):
        for k in range(3):
            for y in range(4):
                for x in range(4):
                    expected = (((y % 2) * 2 + x % 2) * SLICES + s) * 3 + k
                    assert (logits[:, :, s, k, y, x] == expected).all()


def test_expanded_patches_are_in_their_place() -> None:
    expand = PatchExpand(4, 3, scale=2)
    x = torch.randn(2, 2, 3, 5, 4)
    found = expand(x)
    assert found.shape == (2, 2, 6, 10, 3)
    for y in range(6):
        for z in range(10):
            first = ((y % 2) * 2 + z % 2) * 3
            cell = x[:, :, y // 2, z // 2] @ expand.expand.weight[first : first + 3].T
            torch.testing.assert_close(found[:, :, y, z], expand.norm(cell))


def test_cross_attention_asks_and_is_keyed_by_the_skip_connection() -> None:
    torch.manual_seed(0)
    block = SkipCrossAttention(4).double()
    nn.init.zeros_(block.ffn.fc2.weight)
    nn.init.zeros_(block.ffn.fc2.bias)
    x, skip = torch.randn(2, 1, 1, 2, 3, 4, dtype=torch.float64)
    found = block(x, skip).view(6, 8)
    v, k = block.norm1(x).view(6, 4), block.norm1(skip).view(6, 4)
    attended = torch.softmax(k, 1) @ (torch.softmax(k, 0).T @ v)
    expected = torch.cat([x.view(6, 4), skip.view(6, 4)], 1) + block.norm2(block.out(attended))
    torch.testing.assert_close(found, expected)


def test_loss_is_monais_on_every_labelled_image() -> None:
    logits, target, mask = some()
    monai = DiceCELoss(softmax=True, to_onehot_y=True, smooth_nr=1, smooth_dr=1, lambda_dice=0.6, lambda_ce=0.4)
    found = decoder_of().loss(logits, target, mask)
    for row in range(3):
        each = [
            float(monai(logits[row, t, s][None], target[row, t, s][None, None]))
            for t in range(FRAMES)
            for s in range(SLICES)
            if mask[row, t, s]
        ]
        assert float(found[row]) == pytest.approx(sum(each) / len(each) if each else 0.0, rel=1e-6)


def test_weighted_loss_equals_a_loop_over_pixels() -> None:
    weights = (0.5, 1.0, 4.0)
    logits, target, mask = some(rows=1)
    mask[:] = False
    mask[0, 1, 0] = True
    y = {(i, j): int(target[0, 1, 0, i, j]) for i in range(6) for j in range(6)}
    p = torch.softmax(logits[0, 1, 0], 0)
    entropy = sum(-weights[k] * math.log(p[k, i, j]) for (i, j), k in y.items()) / sum(weights[k] for k in y.values())
    dice = 0.0
    for k, w in enumerate(weights):
        common = sum(float(p[k, i, j]) for (i, j), label in y.items() if label == k)
        both = sum(float(p[k, i, j]) + float(label == k) for (i, j), label in y.items())
        dice += w * (1 - (2 * common + 1) / (both + 1)) / sum(weights)
    found = decoder_of(weights=weights).loss(logits, target, mask)
    assert float(found) == pytest.approx(0.6 * dice + 0.4 * entropy, rel=1e-9)


def test_a_class_neither_drawn_nor_predicted_costs_nothing() -> None:
    target = torch.zeros(1, FRAMES, SLICES, 6, 6, dtype=torch.uint8)
    target[..., :3, :] = 1
    mask = torch.ones(1, FRAMES, SLICES, dtype=torch.bool)
    logits = 60.0 * nn.functional.one_hot(target.long(), 3).movedim(-1, 3)
    assert float(decoder_of().loss(logits, target, mask)) == pytest.approx(0.0, abs=1e-9)
    logits[..., 5, :4] = logits[..., 5, :4].flip(3)  # four pixels of class 0 are taken for class 2, which is absent
    first, third = 1 - (2 * 14 + 1) / (14 + 18 + 1), 1 - 1 / (4 + 1)
    expected = 0.6 * (first + third) / 3 + 0.4 * 60.0 * 4 / 36
    assert float(decoder_of().loss(logits, target, mask)) == pytest.approx(expected, rel=1e-6)


def test_unlabelled_images_and_other_rows_do_not_matter() -> None:
    logits, target, mask = some()
    expected = decoder_of().loss(logits, target, mask)
    logits[~mask], target[~mask] = float("nan"), 255
    logits.requires_grad_()
    found = decoder_of().loss(logits, target, mask)
    assert torch.equal(found, expected)
    assert found[0] == 0
    gradient = torch.autograd.grad(found[1], logits)[0]
    assert gradient.isfinite().all()
    assert gradient[1][mask[1]].abs().amax((1, 2, 3)).min() > 0
    assert not gradient[[0, 2]].any()


@pytest.mark.parametrize("name", ["dae_former", "pyramid"])
def test_a_disc_is_learned(name: str) -> None:
    plan = cine_plan(slices=1)
    encoder, decoder = pair(name, plan, drawing("disc"))
    g = torch.Generator().manual_seed(0)
    centre = 8 + 16 * torch.rand(6, FRAMES, 1, 2, 1, 1, generator=g)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    target = ((grid - centre).norm(dim=3) < 6).to(torch.uint8)
    inputs = images(plan, rows=6)
    inputs["video"] = target + 0.3 * inputs["video"]
    mask = torch.ones(6, FRAMES, 1, dtype=torch.bool)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        decoder.loss(decoder(encoder(inputs).levels), target, mask).mean().backward()
        optimiser.step()
    found = decoder.predict(decoder(encoder(inputs).levels))
    dice = 2 * (found * target).sum() / (found.sum() + target.sum())
    assert float(dice) > 0.85


def test_masks_are_learned_over_a_frozen_encoder(plan: dict[str, object]) -> None:
    """What is kept of its features has no maps; so it runs again."""
    plan["modalities"] = {"cine": {"kind": "cine", "frames": FRAMES, "slices": SLICES, "size": 32}}
    plan["tasks"] = {"death": {"type": "binary"}, "scar": drawing().model_dump(exclude_defaults=True)}
    phases = [
        {"name": "drawing", "rounds": 1, "objective": "segmentation", "trains": ["heads.scar"]},
        {"name": "prognosis", "rounds": 1},
    ]
    plan["training"] = {"rounds": 2, "steps": 1, "batch": 4, "encoders": "frozen", "phases": phases}
    study = Study.model_validate(plan)
    model = build_model(study).train()
    batch = random_rows(study, 3)
    kept = replace(batch, features={name: model.features(name, batch) for name in model.constant_encoders()})
    assert list(kept.features) == ["cine"]
    losses = model.losses(model(kept), kept)
    torch.testing.assert_close(losses, model.losses(model(batch), batch))
    losses.sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert learned == {name for name, _ in model.named_parameters() if name.startswith("heads.scar.")}
