"""Mask2Former's own rules: what it refuses, which results it makes, and what these are made of."""

import pickle
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

from detr_d2.checkpoint import DetrCheckpointer, to_official
from detr_d2.modeling import Mask2Former
from detr_d2.modeling.meta_arch.mask2former import full_masks
from detr_d2.structures import DotMasks, Frames, Predictions

from ...parity.mask2former.oracle import NUM_CLASSES, NUM_QUERIES, randomize, small_config

TEST = "MODEL.MASK_FORMER.TEST"


def build(*options: object) -> Mask2Former:
    model = build_model(small_config("resnet", *options))
    randomize(model)
    return model.eval()


def item(objects: int, masks: bool = True) -> dict:
    instances = Instances((40, 50), gt_classes=torch.zeros(objects, dtype=torch.int64))
    if masks:
        instances.gt_masks = BitMasks(torch.ones(objects, 40, 50, dtype=torch.bool))
    return {"image": torch.randint(256, (3, 40, 50)).float(), "instances": instances, "file_name": "a.jpg"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (item(NUM_QUERIES + 1), "a.jpg holds 8 objects.*7 queries: raise MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
        (item(1, masks=False), "a.jpg comes without masks"),
    ],
)
def test_data_that_it_cannot_learn_from(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().train()([given])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([f"{TEST}.PANOPTIC_ON", False, f"{TEST}.INSTANCE_ON", False], "asks for no result"),
        (["MODEL.MASK_FORMER.THING_CLASSES", [9]], "Thing classes run from 9 to 9.*or MODEL.MASK_FORMER.THING_CLASSES"),
        (["MODEL.MASK_FORMER.THING_CLASSES", []], "MODEL.MASK_FORMER.THING_CLASSES is \\(\\)"),
        (["MODEL.MASK_FORMER.DEC_LAYERS", 1], "DEC_LAYERS and .* at least 2"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3"]], "IN_FEATURES is .*but the backbone returns"),
    ],
)
def test_keys_that_cannot_be_are_named(options: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*options)


@pytest.mark.parametrize(
    ("panoptic", "instances", "semantic"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_results_are_those_asked_for_whatever_the_chunks(panoptic: bool, instances: bool, semantic: bool) -> None:
    given = {"image": torch.randint(256, (3, 45, 75)).float(), "height": 60, "width": 90}
    keys = [f"{TEST}.PANOPTIC_ON", panoptic, f"{TEST}.INSTANCE_ON", instances, f"{TEST}.SEMANTIC_ON", semantic]
    keys += [f"{TEST}.OBJECT_MASK_THRESHOLD", 0.3]
    results = []
    for chunk in (1, 100):
        with torch.no_grad():
            (result,) = build(*keys, "MODEL.MASK_FORMER.MASK_CHUNK_SIZE", chunk)([given])
        results.append(result)
    names = {"panoptic_seg": panoptic, "instances": instances, "sem_seg": semantic}
    assert results[0].keys() == results[1].keys() == {name for name, on in names.items() if on}
    if panoptic:
        assert results[0]["panoptic_seg"][0].shape == (60, 90)
        assert torch.equal(results[0]["panoptic_seg"][0], results[1]["panoptic_seg"][0])
    if instances:
        first, second = (result["instances"] for result in results)
        assert first.image_size == (60, 90)
        assert len(first) > 0
        assert torch.equal(first.pred_masks, second.pred_masks)
        torch.testing.assert_close(first.scores, second.scores)
    if semantic:
        assert results[0]["sem_seg"].shape == (NUM_CLASSES, 60, 90)
        torch.testing.assert_close(results[0]["sem_seg"], results[1]["sem_seg"])


def test_of_models_for_semantic_maps_alone_the_map_is_resized_not_the_masks() -> None:
    model = build(f"{TEST}.PANOPTIC_ON", False, f"{TEST}.INSTANCE_ON", False, f"{TEST}.SEMANTIC_ON", True)
    image = torch.randint(256, (3, 45, 75)).float()
    with torch.no_grad():
        (small,), (large,) = model([{"image": image}]), model([{"image": image, "height": 90, "width": 120}])
    expected = F.interpolate(small["sem_seg"][None], (90, 120), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(large["sem_seg"], expected)


def test_instances_are_things_among_the_best_pairs() -> None:
    """Stuff takes its place among them before it is left out; a score that is too low is no instance."""
    model = build("TEST.DETECTIONS_PER_IMAGE", 5)  # things are 0 and 1
    probabilities = torch.full((NUM_QUERIES, NUM_CLASSES + 1), 1e-4)
    for query, category, value in ((2, 0, 0.9), (5, 3, 0.8), (2, 2, 0.09), (3, 1, 0.7), (4, 0, 0.05), (6, 1, 0.04)):
        probabilities[query, category] = value
    probabilities[:, -1] = 1 - probabilities[:, :-1].sum(1)
    query, scores, classes = model.select_instances(probabilities.log())
    assert list(zip(query.tolist(), classes.tolist(), strict=True)) == [(2, 0), (3, 1), (4, 0)]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.05]), rtol=1e-2, atol=1e-3)
    few = build("TEST.DETECTIONS_PER_IMAGE", 5, f"{TEST}.INSTANCE_MIN_SCORE", 0.5)
    assert few.select_instances(probabilities.log())[0].tolist() == [2, 3]


def test_masks_are_cropped_to_the_image_before_they_are_resized() -> None:
    embeddings, features = torch.randn(1, 2, 3, 4), torch.randn(2, 4, 16, 24)
    masks = DotMasks(embeddings, features, Frames([(32, 64), (64, 96)], (64, 96)))
    result = full_masks(masks, 0, torch.tensor([2, 0]), (30, 50), (45, 100))
    for mask, query in zip(result, (2, 0), strict=True):
        logits = (embeddings[0, 0, query][:, None, None] * features[0, :, :8, :16]).sum(0)  # of its own frame
        full = F.interpolate(logits[None, None], (32, 64), mode="bilinear")[..., :30, :50]
        torch.testing.assert_close(mask, F.interpolate(full, (45, 100), mode="bilinear")[0, 0])


def test_no_object_in_a_batch_leaves_a_loss_of_classes_alone() -> None:
    model = build().train()
    losses = model([item(0), item(0)])
    sum(losses.values()).backward()
    assert all(float(value.detach()) == 0 for name, value in losses.items() if "ce" not in name)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_training_makes_no_mask_of_a_query_without_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only points of all queries, and maps of the matched ones."""
    model, sizes = build().train(), []
    einsum = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda rule, *x: sizes.append(einsum(rule, *x)) or sizes[-1])
    model([item(2), item(1)])
    assert [len(x) for x in sizes] == [2 * 5, 1 * 5]  # in all five predictions


def test_the_official_file(tmp_path: Path) -> None:
    """A pickle of arrays, as Detectron2 writes it, which brings the criterion's weights, too."""
    source = build()
    state = {name: value.numpy() for name, value in to_official(source.state_dict())["model"].items()}
    assert "sem_seg_head.predictor.query_feat.weight" in state
    assert len(state["sem_seg_head.predictor.class_embed.bias"]) == NUM_CLASSES + 1
    state["criterion.empty_weight"] = torch.ones(NUM_CLASSES + 1).numpy()
    with open(tmp_path / "model_final.pkl", "wb") as file:
        pickle.dump({"model": state, "__author__": "Somebody"}, file)
    model = build_model(small_config("resnet"))
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path / "model_final.pkl"))
    assert checkpointer.last_report.layout == "official Mask2Former"
    for name, value in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


def test_predictions_hold_masks_of_every_layer_in_training_and_of_the_last_in_inference() -> None:
    model = build()
    images = model.preprocess([item(0)])
    for layers, mode in ((5, True), (1, False)):
        predictions: Predictions = model.train(mode).detect(images).predictions
        assert len(predictions.logits) == len(predictions.masks.embeddings) == layers


def test_fine_tuning_on_other_classes_takes_all_but_the_class_head() -> None:
    state = to_official(build().state_dict())["model"]
    with pytest.raises(ValueError, match=r"MODEL.REINIT_CLASS_HEAD|MODEL.SEM_SEG_HEAD.NUM_CLASSES"):
        build("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6).load_state_dict(state)
    model = build_model(small_config("resnet", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6, "MODEL.REINIT_CLASS_HEAD", True))
    before = model.class_embed.weight.detach().clone()
    model.load_state_dict(state, strict=False)
    assert torch.equal(model.class_embed.weight, before)
    expected = state["sem_seg_head.predictor.query_feat.weight"]
    torch.testing.assert_close(model.transformer.query_feat.weight.detach(), expected, rtol=0, atol=0)
