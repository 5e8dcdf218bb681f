"""The random batch that a benchmark runs on."""

import torch
from detectron2.config import CfgNode

from detr_d2.measure.inputs import Settings, make_inputs


def test_inputs_are_valid_seeded_and_of_the_sizes_in_turn(small_detr_cfg: CfgNode) -> None:
    settings = Settings(config_file="", sizes=((40, 60), (50, 30)), batch_size=3, objects=5)
    inputs = make_inputs(small_detr_cfg, settings)
    assert [tuple(item["image"].shape) for item in inputs] == [(3, 40, 60), (3, 50, 30), (3, 40, 60)]
    for item in inputs:
        instances = item["instances"]
        boxes = instances.gt_boxes.tensor
        assert item["image"].dtype == torch.uint8
        assert len(instances) == 5
        assert (boxes[:, 2:] - boxes[:, :2] > 1).all()
        limit = torch.tensor([item["width"], item["height"]])
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= limit).all()
        assert 0 <= instances.gt_classes.min() <= instances.gt_classes.max() < 80
    again = make_inputs(small_detr_cfg, settings)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(inputs, again, strict=True))
    assert not torch.equal(inputs[0]["image"], inputs[2]["image"])
