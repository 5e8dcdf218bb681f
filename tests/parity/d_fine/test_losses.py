"""Losses and gradients of D-FINE beside the terms of ``transformers``' loss, put together as published.

``transformers`` itself puts them together otherwise: without the union of matches, and with the logits of one layer
beside the sides of the next.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.testing import assert_close
from transformers.loss.loss_d_fine import DFineLoss

from detr_d2.modeling import DFINE
from detr_d2.modeling.meta_arch.dino import DINODetection
from detr_d2.modeling.set_prediction import DistributionLosses, positive_share
from detr_d2.structures import Predictions, Targets

from .oracle import LAYERS, QUERIES, build_oracle, build_ours, our_state

SIZE = (64, 96)
OBJECTS = 3
Indices = list[tuple[Tensor, Tensor]]
NAMES = {"loss_vfl": "loss_ce", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou", "loss_fgl": "loss_fgl"}


def inputs() -> list[dict]:
    """Two images with as many objects, so that no denoising slot is unused."""
    generator = torch.Generator().manual_seed(4)
    result = []
    for _ in range(2):
        corners = 0.6 * torch.rand(OBJECTS, 2, generator=generator)
        sizes = 0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator)
        boxes = torch.cat([corners, corners + sizes], 1) * torch.tensor([SIZE[1], SIZE[0]] * 2)
        instances = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.randint(7, (3,), generator=generator))
        image = torch.randint(256, (3, *SIZE), dtype=torch.uint8, generator=generator)
        result.append({"image": image, "instances": instances})
    return result


@pytest.fixture(scope="module")
def found() -> tuple[DFINE, DFineLoss, DINODetection, Targets]:
    """The model, the reference's loss, and a detection in training, whose predictions are leaves of the graph."""
    oracle, ours = build_oracle(), build_ours().train()
    ours.load_state_dict(our_state(oracle))
    images = ours.preprocess(inputs())
    targets = ours.prepare_targets(inputs(), images)
    detection = ours.detect(images, targets)
    proposals = detection.hidden.proposals
    proposals = proposals._replace(logits=leaf(proposals.logits), boxes=leaf(proposals.boxes))
    detection = detection._replace(
        predictions=leaves(detection.predictions),
        denoised=leaves(detection.denoised),
        hidden=detection.hidden._replace(proposals=proposals),
    )
    return ours, DFineLoss(oracle.config), detection, targets


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def leaves(predictions: Predictions) -> Predictions:
    sides = predictions.distributions
    return Predictions(
        leaf(predictions.logits), leaf(predictions.boxes), distributions=sides._replace(logits=leaf(sides.logits))
    )


def outputs_of(predictions: Predictions) -> list[dict[str, Tensor]]:
    """Of the first box, and of every layer with its sides and the last one as the teacher."""
    sides = predictions.distributions
    result = [{"logits": a, "pred_boxes": b} for a, b in zip(predictions.logits, predictions.boxes, strict=True)]
    for output, own in zip(result[-LAYERS:], sides.logits, strict=True):
        output["pred_corners"], output["ref_points"] = own.flatten(-2), sides.start
        output["teacher_corners"], output["teacher_logits"] = sides.logits[-1].flatten(-2), result[-1]["logits"]
    return result


def union_of(every: list[Indices]) -> Indices:
    """For each query, the object that most gave it."""
    result = []
    for image in zip(*every, strict=True):
        votes = Counter(pair for rows, columns in image for pair in zip(rows.tolist(), columns.tolist(), strict=True))
        chosen: dict[int, int] = {}
        for (query, target), _ in sorted(votes.items(), key=lambda item: (-item[1], item[0])):
            chosen.setdefault(query, target)
        result.append((torch.tensor(list(chosen)), torch.tensor(list(chosen.values()))))
    return result


def test_losses_and_gradients(found: tuple[DFINE, DFineLoss, DINODetection, Targets]) -> None:
    ours, theirs, detection, targets = found
    labels = [{"class_labels": a, "boxes": b} for a, b in zip(targets.labels, targets.boxes, strict=True)]
    proposals = detection.hidden.proposals
    outputs = outputs_of(detection.predictions)
    proposed = {"logits": proposals.logits, "pred_boxes": proposals.boxes}
    own = [theirs.matcher(output, labels) for output in (*outputs, proposed)]
    union = union_of(own)
    pairs = sum(len(rows) for rows, _ in union)
    assert pairs > 2 * OBJECTS

    def terms(output: dict, classes: Indices, boxes: Indices, objects: float, pairs: float) -> dict[str, Tensor]:
        losses = theirs.loss_labels_vfl(output, labels, classes, objects)
        losses |= theirs.loss_boxes(output, labels, boxes, pairs)
        losses |= theirs.loss_local(output, labels, boxes, pairs)
        return {name: theirs.weight_dict[name] * value for name, value in losses.items()}

    expected = {}
    suffixes = [*(f"_{i}" for i in range(LAYERS)), "", "_enc"]
    for suffix, output, indices in zip(suffixes, [*outputs, proposed], own, strict=True):
        losses = terms(output, indices, union, 2 * OBJECTS, pairs)
        expected |= {NAMES.get(name, name) + suffix: value for name, value in losses.items()}
    noised = detection.noised
    slots = torch.arange(noised.groups)[:, None] * 2 * OBJECTS + torch.arange(OBJECTS)
    known = [(slots.flatten(), torch.arange(OBJECTS).repeat(noised.groups))] * 2
    count = 2 * OBJECTS * noised.groups
    for suffix, output in zip(suffixes[:-1], outputs_of(detection.denoised), strict=True):
        losses = terms(output, known, known, count, count)
        expected |= {f"{NAMES.get(name, name)}{suffix}_dn": value for name, value in losses.items()}

    result = ours.losses(detection, targets)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        if not ("ddf" in name and name.endswith("_dn")):  # in which published code weights by the others' numbers
            assert_close(result[name], value, rtol=1e-4, atol=1e-6)
    compared = [detection.predictions.logits, detection.predictions.boxes, proposals.logits, proposals.boxes]
    compared += [detection.predictions.distributions.logits, detection.denoised.logits, detection.denoised.boxes]
    gradients = torch.autograd.grad(sum(result.values()), compared, retain_graph=True)
    for gradient, other in zip(gradients, torch.autograd.grad(sum(expected.values()), compared), strict=True):
        assert other.abs().max() > 0
        assert_close(gradient, other, rtol=1e-3, atol=1e-6)


def test_distillation_of_noised_objects(found: tuple[DFINE, DFineLoss, DINODetection, Targets]) -> None:
    """Its weights are those of the object queries: shares of the union."""
    ours, theirs, detection, targets = found
    used, objects, known = detection.noised.loss_inputs(detection.denoised, targets)
    labels = [{"class_labels": objects.labels[0], "boxes": objects.boxes[0]}]
    indices = [(known.query[0], known.target[0])]
    one = torch.tensor(1.0)
    losses = DistributionLosses()
    result = losses(used, objects, known, one)["loss_ddf"]
    for own, output in zip(result, outputs_of(used)[-LAYERS:], strict=True):
        assert_close(own, theirs.loss_local(output, labels, indices, 1)["loss_ddf"], rtol=1e-4, atol=1e-6)
    assert_close(result[-1], torch.tensor(0.0), atol=1e-6, rtol=0)

    def with_share(share: float) -> Tensor:
        sides = used.distributions._replace(positive_share=share)
        return losses(replace(used, distributions=sides), objects, known, one)["loss_ddf"]

    every = Predictions(
        torch.cat([detection.hidden.proposals.logits[None], detection.predictions.logits]),
        torch.cat([detection.hidden.proposals.boxes[None], detection.predictions.boxes]),
    )
    matches = ours.criterion.matcher.on_cpu(every, targets)
    pairs = {(b, q) for row in matches.query.tolist() for b, q in zip(matches.batch.tolist(), row, strict=True)}
    share = positive_share(len(pairs), 2 * QUERIES - len(pairs))
    assert_close(with_share(share), share * with_share(1.0) + (1 - share) * with_share(0.0))
    published = ours.losses(detection, targets)
    weight = ours.box_criterion.weights["loss_ddf"]
    assert_close(torch.stack([published[f"loss_ddf_{i}_dn"] for i in (1, 2)]), weight * with_share(share)[:-1])
