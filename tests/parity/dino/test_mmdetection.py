"""Outputs, selection, losses and gradients of DINO beside mmdetection's, with the same weights and the same noise."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detr_d2.layers import inverse_sigmoid
from detr_d2.modeling import DINO
from detr_d2.modeling.transformer.denoising import EPS, DenoisingQueries
from detr_d2.modeling.transformer.query_selection import Queries
from detr_d2.structures import FeatureLevels, PaddedImages

from .oracle import LAYERS, QUERIES, build_oracle

SIZE = (128, 160)


class Models(NamedTuple):
    ours: DINO
    theirs: nn.Module


@pytest.fixture(scope="module")
def models(small_dino_cfg: Callable[..., CfgNode]) -> Models:
    theirs = build_oracle()
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if not name.startswith("backbone."):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    cfg = small_dino_cfg(
        "4scale_12ep",
        *["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256],
        *["MODEL.RESNETS.WIDTH_PER_GROUP", 64, "MODEL.DETR.HIDDEN_DIM", 256, "MODEL.DETR.NHEADS", 8],
        *["MODEL.DETR.ENC_LAYERS", LAYERS["encoder"], "MODEL.DETR.DEC_LAYERS", LAYERS["decoder"]],
        *["MODEL.DETR.NUM_OBJECT_QUERIES", QUERIES, "MODEL.DINO.SHARE_HEADS", False],
    )
    ours = build_model(cfg)
    ours.load_state_dict(theirs.state_dict())  # translates the names
    return Models(ours.train(), theirs.train())


@pytest.fixture(scope="module")
def inputs() -> list[dict]:
    """Two images of one size with as many objects, where the reference has no padding and no unused slots."""
    torch.manual_seed(1)
    result = []
    for _ in range(2):
        corners = 0.6 * torch.rand(3, 2)
        boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(3, 2)], 1) * torch.tensor([SIZE[1], SIZE[0]] * 2)
        instances = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.randint(80, (3,)))
        result.append({"image": torch.randint(256, (3, *SIZE), dtype=torch.uint8), "instances": instances})
    return result


def levels_of(ours: DINO, images: PaddedImages) -> tuple[dict[str, Tensor], FeatureLevels]:
    features = ours.backbone(images.tensor)
    return features, ours.project([features[name] for name in ours.in_features], images)


def samples_of(inputs: list[dict]) -> list:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for item in inputs:
        sample = DetDataSample(metainfo={"img_shape": SIZE, "batch_input_shape": SIZE})
        instances = item["instances"]
        sample.gt_instances = InstanceData(bboxes=instances.gt_boxes.tensor, labels=instances.gt_classes)
        samples.append(sample)
    return samples


def test_outputs_of_every_layer(models: Models, inputs: list[dict]) -> None:
    ours, theirs = models
    images = ours.preprocess(inputs)
    with torch.no_grad():
        outputs = theirs.eval().forward_transformer(theirs.extract_feat(images.tensor), samples_of(inputs))
        logits, boxes = theirs.bbox_head(**outputs)
        theirs.train()
        detection = ours.predict(*levels_of(ours, images))
    assert logits.std() > 0.1
    assert boxes.std(dim=(1, 2)).min() > 0.01
    torch.testing.assert_close(detection.predictions.logits, logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(detection.predictions.boxes, boxes, rtol=0, atol=1e-5)


def test_losses_and_gradients_with_the_same_noise(
    models: Models, inputs: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = models
    images = ours.preprocess(inputs)
    targets = ours.prepare_targets(inputs, images)
    torch.manual_seed(2)
    noised = ours.denoising.draw(targets)
    monkeypatch.setattr(type(ours.denoising), "draw", lambda *_: noised)
    generator = theirs.dn_query_generator
    mask = generator.generate_dn_mask(3, noised.groups, "cpu")

    def generate(*_: object) -> tuple:
        labels = generator.label_embedding(noised.labels)
        counts = {"num_denoising_queries": noised.labels.shape[1], "num_denoising_groups": noised.groups}
        return labels, inverse_sigmoid(noised.boxes, EPS), mask, counts

    monkeypatch.setattr(type(generator), "__call__", generate)
    expected = theirs.loss(images.tensor, samples_of(inputs))
    losses = ours(inputs)

    last = LAYERS["decoder"] - 1
    names = {"loss_cls": "loss_ce", "loss_bbox": "loss_bbox", "loss_iou": "loss_giou"}
    prefixes = {"": "{}", "dn_": "{}_dn", "enc_": "{}_enc"}
    pairs = {prefix + their: form.format(own) for prefix, form in prefixes.items() for their, own in names.items()}
    for i in range(last):
        pairs |= {f"d{i}.{their}": f"{own}_{i}" for their, own in names.items()}
        pairs |= {f"d{i}.dn_{their}": f"{own}_{i}_dn" for their, own in names.items()}
    assert set(pairs) == set(expected)
    assert set(pairs.values()) == set(losses)
    torch.testing.assert_close(
        [losses[own] for own in pairs.values()], [expected[their].squeeze() for their in pairs], rtol=1e-4, atol=1e-5
    )

    sum(loss.sum() for loss in expected.values()).backward()
    sum(losses.values()).backward()
    for own, their in (
        ("label_enc", generator.label_embedding),
        ("transformer.query_selection.tgt_embed", theirs.query_embedding),
        ("transformer.query_selection.enc_output", theirs.memory_trans_fc),
        ("transformer.decoder.ref_point_head.layers.0", theirs.decoder.ref_point_head.layers[0]),
        ("transformer.decoder.layers.0.linear1", theirs.decoder.layers[0].ffn.layers[0][0]),
        (
            "transformer.encoder.layers.0.self_attn.sampling_offsets",
            theirs.encoder.layers[0].self_attn.sampling_offsets,
        ),
        ("class_embed.0", theirs.bbox_head.cls_branches[0]),
        ("bbox_embed.0.layers.0", theirs.bbox_head.reg_branches[0][0]),
        ("bbox_embed.3.layers.2", theirs.bbox_head.reg_branches[3][4]),
        ("backbone.res4.0.conv1", theirs.backbone.layer3[0].conv1),
    ):
        result = ours.get_submodule(own).weight.grad
        gradient = their.weight.grad
        assert gradient.abs().max() > 0
        torch.testing.assert_close(result[: len(gradient)], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max())


def test_who_sees_whom(models: Models, inputs: list[dict]) -> None:
    ours, theirs = models
    noised = ours.denoising.draw(ours.prepare_targets(inputs, ours.preprocess(inputs)))
    empty = Queries(torch.zeros(2, QUERIES, 256), None, torch.zeros(2, QUERIES, 4))
    mask = DenoisingQueries(noised, ours.label_enc(noised.labels)).before(empty).attn_mask
    expected = theirs.dn_query_generator.generate_dn_mask(3, noised.groups, "cpu")
    assert torch.equal(~mask[0, 0], expected)
