"""Keys of FCOS (Tian et al., ICCV 2019 and TPAMI 2020)."""

from detectron2.config import CfgNode as CN


def add_fcos_config(cfg: CN) -> None:
    """Add ``MODEL.FCOS``. The defaults are the improved model's; `fcos_R_50_1x.yaml` holds what the first one has."""
    cfg.MODEL.FCOS = CN()
    # Contiguous classes; there is no background class. -1: as many as DATASETS.TRAIN has. A number that is set is
    # obeyed, and must agree with the data.
    cfg.MODEL.FCOS.NUM_CLASSES = -1
    # The backbone features that the head reads, finest first.
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Cell (column x, row y) of a level stands for the point ((x + offset) * stride, (y + offset) * stride): 0.5 as in
    # the paper; 0.0 for weights of torchvision's or Detectron2's own FCOS.
    cfg.MODEL.FCOS.LOCATION_OFFSET = 0.5
    _add_head_keys(cfg.MODEL.FCOS)
    _add_training_keys(cfg.MODEL.FCOS)
    _add_inference_keys(cfg.MODEL.FCOS)


def _add_head_keys(fcos: CN) -> None:
    # 3x3 convolutions in each of the two towers, and the norm after each: "GN", another of Detectron2's norms, or "".
    fcos.NUM_CONVS = 4
    fcos.NORM = "GN"
    # The last convolution of each tower is a modulated deformable one.
    fcos.DEFORM_IN_TOWER = False
    # What the third branch predicts: "centerness", or "iou", the overlap of the predicted box with its object.
    fcos.QUALITY = "centerness"
    # The third branch reads the regression tower (True) or, as in the first paper, the classification tower.
    fcos.QUALITY_ON_REGRESSION = True
    # Distances are predicted in units of the level's stride through ReLU (True), or in pixels through exp.
    fcos.NORMALIZE_TARGETS = True
    # Probability that the class branch gives everything at the start.
    fcos.PRIOR_PROB = 0.01


def _add_training_keys(fcos: CN) -> None:
    # An object belongs to the level where the longest distance to its sides lies between the neighbours of this list,
    # from 0 to infinity: one entry fewer than levels, in pixels.
    fcos.REGRESSION_RANGES = [64, 128, 256, 512]
    # Only locations within this many strides of an object's centre (and inside its box) belong to it; 0: all inside.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    # "iou" (-ln IoU), "linear_iou" (1 - IoU) or "giou".
    fcos.LOCALIZATION_LOSS = "giou"
    # Weight of the positives and focusing power in the classification's focal loss.
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0


def _add_inference_keys(fcos: CN) -> None:
    # Candidates must score above the threshold: by their "class" score alone, or by the "product" with the quality.
    fcos.SCORE_THRESH_TEST = 0.05
    fcos.SCORE_THRESH_ON = "class"
    # The best candidates of each level that take part in non-maximum suppression, at this IoU within a class;
    # TEST.DETECTIONS_PER_IMAGE bounds what is left. Final scores are sqrt(class score * quality).
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6
