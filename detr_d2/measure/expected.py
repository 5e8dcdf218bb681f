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
    "COCO-Detection/rtdetrv2_R_18": FirstQueries(
        logits=((-3.7047, -5.1914, -6.1787), (-4.0108, -9.3449, -5.2047), (-4.1287, -4.7461, -5.8633)),
        boxes=((0.2582, 0.5497, 0.4764), (0.1684, 0.1985, 0.212), (0.7665, 0.4146, 0.4669)),
    ),
    "COCO-Detection/rtdetrv2_R_34": FirstQueries(
        logits=((-4.6108, -5.9453, -3.8505), (-3.8702, -6.1136, -5.5677), (-3.779, -6.4538, -5.9449)),
        boxes=((0.1691, 0.1984, 0.2118), (0.2594, 0.5506, 0.4736), (0.7669, 0.4136, 0.4654)),
    ),
    "COCO-Detection/rtdetrv2_R_50_m": FirstQueries(
        logits=((-2.7453, -5.4595, -7.3702), (-3.1858, -5.3803, -7.9838), (-5.0293, -7.0083, -4.2888)),
        boxes=((0.7711, 0.4135, 0.4577), (0.257, 0.548, 0.4755), (0.1694, 0.1992, 0.2127)),
    ),
    "COCO-Detection/rtdetrv2_R_50": FirstQueries(
        logits=((-4.7881, -4.6754, -6.1624), (-5.4441, -6.6486, -4.384), (-3.5455, -4.9318, -6.3544)),
        boxes=((0.2588, 0.5487, 0.4747), (0.5497, 0.276, 0.0573), (0.7688, 0.4133, 0.4634)),
    ),
    "COCO-Detection/rtdetrv2_R_101": FirstQueries(
        logits=((-4.6162, -4.9189, -4.6656), (-4.4701, -4.4997, -4.9659), (-5.6641, -7.9, -5.0725)),
        boxes=((0.7707, 0.4124, 0.4585), (0.2589, 0.5492, 0.4735), (0.1688, 0.1993, 0.2108)),
    ),
    "COCO-Detection/dfine_N": FirstQueries(
        logits=((-3.7828, -5.0889, -4.8341), (-5.3047, -6.2802, -2.9276), (-4.4979, -5.267, -6.238)),
        boxes=((0.7333, 0.4271, 0.3942), (0.168, 0.1989, 0.2103), (0.2537, 0.5534, 0.485)),
    ),
    "COCO-Detection/dfine_S": FirstQueries(
        logits=((-3.8098, -4.7725, -5.9945), (-5.2975, -9.4991, -6.1654), (-5.3502, -3.9532, -6.3631)),
        boxes=((0.7678, 0.4148, 0.4644), (0.1691, 0.1987, 0.2124), (0.2582, 0.5482, 0.4751)),
    ),
    "COCO-Detection/dfine_M": FirstQueries(
        logits=((-4.5187, -4.7171, -4.1177), (-4.514, -4.9377, -3.8291), (-4.83, -6.9317, -3.174)),
        boxes=((0.2585, 0.549, 0.4758), (0.7697, 0.4141, 0.4599), (0.1687, 0.1992, 0.2121)),
    ),
    "COCO-Detection/dfine_L": FirstQueries(
        logits=((-4.0688, -5.17, -4.3392), (-3.9462, -5.028, -4.0161), (-4.2183, -6.1963, -5.1752)),
        boxes=((0.2565, 0.549, 0.4749), (0.7694, 0.4139, 0.4598), (0.1688, 0.1988, 0.212)),
    ),
    "COCO-Detection/dfine_X": FirstQueries(
        logits=((-4.8447, -4.7293, -4.5971), (-4.5543, -4.6172, -4.6279), (-4.3934, -4.6064, -4.14)),
        boxes=((0.2565, 0.5478, 0.4764), (0.769, 0.4142, 0.4615), (0.1688, 0.1992, 0.2112)),
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
