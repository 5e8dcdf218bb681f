"""Published figures, by the name of the config with that model and schedule (COCO val2017, 5000 images).

Sources: the papers and releases of DETR, Deformable DETR, RT-DETRv2, D-FINE and FCOS, and Detectron2's model zoo.
Latency is of a V100, an image at batch 1. GFLOPs are multiply-adds, the mean over the first images of val2017.
"""

_DEFORMABLE = ("bbox/AP", "bbox/APs", "bbox/APm", "bbox/APl", "parameters", "gflops", "latency")
_ZOO = ("bbox/AP", "segm/AP", "panoptic_seg/PQ", "latency", "parameters")


def _row(names: tuple[str, ...], *values: float | None) -> dict[str, float]:
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


_DETR = ("bbox/AP", "bbox/AP50", "parameters", "gflops")
_PANOPTIC = ("panoptic_seg/PQ", "bbox/AP", "segm/AP")

# Names of metrics as in the table; parameters in millions, latency in milliseconds.
PUBLISHED: dict[str, dict[str, float]] = {
    "detr_R_50_500ep": _row(_DETR, 42.0, 62.4, 41.52, 86),
    "detr_R_50_DC5": _row(_DETR, 43.3, 63.1, None, 187),
    "detr_R_101": _row(_DETR, 43.5, 63.8, 60.46, 152),
    "detr_R_101_DC5": _row(_DETR, 44.9, 64.7, None, 253),
    "panoptic_detr_R_50": _row((*_PANOPTIC, "parameters"), 43.4, 38.8, 31.1, 42.90),
    "panoptic_detr_R_50_DC5": _row(_PANOPTIC, 44.6, 40.2, 31.9),
    "panoptic_detr_R_101": _row(_PANOPTIC, 45.1, 40.1, 33.0),
    "deformable_detr_R_50_single_scale": _row(_DEFORMABLE, 39.4, 20.6, 43.0, 55.5, 34, 78, 1000 / 27.0),
    "deformable_detr_R_50_single_scale_DC5": _row(_DEFORMABLE, 41.5, 24.1, 45.3, 56.0, 34, 128, 1000 / 22.1),
    "deformable_detr_R_50": _row(_DEFORMABLE, 44.5, 27.1, 47.6, 59.6, 40, 173, 1000 / 15.0),
    "deformable_detr_R_50_refine": _row(_DEFORMABLE, 46.2, 28.3, 49.2, 61.5, 41, 173, 1000 / 15.0),
    "deformable_detr_R_50_two_stage": _row(_DEFORMABLE, 46.9, 29.6, 50.1, 61.6, 41, 173, 1000 / 14.5),
    **{
        f"dfine_{name}": _row(("bbox/AP", "parameters"), *figures)
        for name, figures in {
            "N": (42.8, 3.78),
            "S": (48.5, 10.32),
            "M": (52.3, 19.59),
            "L": (54.0, 31.24),
            "X": (55.8, 62.62),
        }.items()
    },
    **{
        f"rtdetrv2_{name}": _row(("bbox/AP", "bbox/AP50", "parameters"), *figures)
        for name, figures in {
            "R_18": (48.1, 65.1, 20.18),
            "R_34": (49.9, 67.5, 31.44),
            "R_50_m": (51.9, 69.9, 36.59),
            "R_50": (53.4, 71.6, 42.89),
            "R_101": (54.3, 72.8, 76.56),
        }.items()
    },
    "fcos_R_50_1x": {"bbox/AP": 37.1},
    "fcos_imprv_R_50_1x": {"bbox/AP": 38.7, "parameters": 32.24},
    "fcos_imprv_iou_R_50_1x": {"bbox/AP": 39.4},
    "fcos_imprv_R_101_2x": {"bbox/AP": 43.0},
    "fcos_imprv_dcnv2_R_50_1x": {"bbox/AP": 42.3},
    "fcos_imprv_dcnv2_R_101_2x": {"bbox/AP": 45.6},
    "faster_rcnn_R_50_FPN_1x": _row(_ZOO, 37.9, None, None, 38, 41.70),
    "faster_rcnn_R_50_FPN_3x": _row(_ZOO, 40.2, None, None, 38, 41.70),
    "faster_rcnn_R_101_FPN_3x": _row(_ZOO, 42.0, None, None, 51, 60.64),
    "retinanet_R_50_FPN_1x": _row(_ZOO, 37.4, None, None, 41, 37.92),
    "retinanet_R_50_FPN_3x": _row(_ZOO, 38.7, None, None, 41, 37.92),
    "mask_rcnn_R_50_FPN_1x": _row(_ZOO, 38.6, 35.2, None, 43, 44.34),
    "mask_rcnn_R_50_FPN_3x": _row(_ZOO, 41.0, 37.2, None, 43, 44.34),
    "panoptic_fpn_R_50_1x": _row(_ZOO, 37.6, 34.7, 39.4, 53, 45.97),
    "panoptic_fpn_R_50_3x": _row(_ZOO, 40.0, 36.5, 41.5, 53, 45.97),
    "panoptic_fpn_R_101_3x": _row(_ZOO, 42.4, 38.5, 43.0, 66, 64.91),
}


def published(label: str, config_name: str) -> dict[str, float]:
    """The figures of the model with that label or, failing that, of that config; empty where none are known."""
    return PUBLISHED.get(label) or PUBLISHED.get(config_name) or {}
