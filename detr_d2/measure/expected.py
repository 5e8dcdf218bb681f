"""What published weights give for one image of COCO, as the tests of other projects that hold them say.

Source: the integration tests of Hugging Face's transformers (Apache-2.0), whose checkpoints are the authors' weights
under other names. They resize with another library, so that their figures and ours may differ in the third digit.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import nn

from ..data import build_dataset_mapper

IMAGE = "000000039769.jpg"  # of val2017: two cats and two remote controls on a couch
ADDRESS = f"http://images.cocodataset.org/val2017/{IMAGE}"
# The largest differences that other ways to resize an image and other kernels make.
TOLERANCE = {"logits": 0.05, "boxes": 0.005}


class FirstQueries(NamedTuple):
    """The first three queries: logits of COCO's first classes; cx, cy and w of their boxes."""

    logits: tuple[tuple[float, ...], ...]
    boxes: tuple[tuple[float, ...], ...]


EXPECTED = {
    "COCO-Detection/detr_R_50_500ep": FirstQueries(
        logits=((-0.0893, -11.0154), (-1.8035, -14.0219), (-0.5837, -11.106)),
        boxes=((0.4433, 0.5302, 0.8852), (0.5494, 0.2517, 0.0529), (0.4998, 0.536, 0.9955)),
    ),
    "COCO-PanopticSegmentation/panoptic_detr_R_50": FirstQueries(
        logits=((-1.7568, -13.5029), (-1.4138, -14.1028), (-2.508, -11.8654)),
        boxes=((0.5344, 0.1789, 0.9285), (0.442, 0.0572, 0.0875), (0.663, 0.6887, 0.1017)),
    ),
    "COCO-Detection/deformable_detr_R_50": FirstQueries(
        logits=((-4.3434, -5.8707), (-3.8503, -5.0721), (-5.3387, -7.5119)),
        boxes=((0.8693, 0.229, 0.2492), (0.315, 0.5489, 0.5845), (0.5563, 0.758, 0.8518)),
    ),
    "COCO-Detection/deformable_detr_R_50_single_scale": FirstQueries(
        logits=((-4.2541, -6.4852), (-4.0854, -6.8033), (-5.847, -7.7003)),
        boxes=((0.7292, 0.4991, 0.5532), (0.7959, 0.2426, 0.4236), (0.7582, 0.3518, 0.4451)),
    ),
    "COCO-Detection/deformable_detr_R_50_single_scale_DC5": FirstQueries(
        logits=((-4.1074, -5.6635), (-4.9447, -6.6075), (-4.5275, -6.2671)),
        boxes=((0.7665, 0.413, 0.4769), (0.8364, 0.1841, 0.3391), (0.6261, 0.3895, 0.7978)),
    ),
    "COCO-Detection/deformable_detr_R_50_refine": FirstQueries(
        logits=((-5.4187, -6.8153), (-6.1668, -7.6184), (-5.5359, -6.9141)),
        boxes=((0.7828, 0.2208, 0.4323), (0.0892, 0.5996, 0.1319), (0.5524, 0.6389, 0.8914)),
    ),
    "COCO-Detection/deformable_detr_R_50_two_stage": FirstQueries(
        logits=((-4.3213, -6.3777), (-6.1799, -6.724), (-4.4735, -6.2298)),
        boxes=((0.2583, 0.5499, 0.4683), (0.7652, 0.9068, 0.4882), (0.549, 0.2763, 0.0564)),
    ),
}


@torch.no_grad()
def differences(name: str, cfg: CfgNode, model: nn.Module, image: Path) -> dict[str, float]:
    """The largest absolute differences between a model's outputs for `IMAGE` and `EXPECTED`, by their names.

    Args:
        name: of its config in ``configs/``, one of `EXPECTED`.
        model: in evaluation mode.

    Raises:
        FileNotFoundError, OSError: there is no such image.
    """
    item = build_dataset_mapper(cfg, is_train=False)({"file_name": str(image)})
    predictions = model.detect(model.preprocess([item])).predictions
    result = {}
    for key, values in EXPECTED[name]._asdict().items():
        expected = torch.tensor(values)
        found = getattr(predictions, key)[-1, 0, : len(values), : expected.shape[1]]
        result[key] = (found.float().cpu() - expected).abs().max().item()
    return result
