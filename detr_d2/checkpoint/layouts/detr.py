"""The layouts of DETR and panoptic DETR: the official release's, its wrapper's for Detectron2, and ours."""

from .layout import Layout, resnet_pairs

OFFICIAL = Layout(
    name="official DETR",
    requires=(r"^backbone\.0\.body\.", r"^transformer\."),
    pairs=(*resnet_pairs("backbone.0.body."), ("backbone.1.{rest}", "position_encoding.{rest}")),
    coco_ids=True,
)
WRAPPER = Layout(
    name="official DETR for Detectron2",
    requires=(r"^backbone\.0\.backbone\.", r"^transformer\."),
    pairs=(("backbone.0.backbone.{rest}", "backbone.{rest}"), ("backbone.1.{rest}", "position_encoding.{rest}")),
    leftovers=(r"^criterion\.empty_weight$",),
    coco_ids=True,
)
OURS = Layout(
    name="detr_d2",
    requires=(r"^backbone\.", r"^(transformer|head)\.", r"^(class_embed|head\.cls_logits)\."),
)
