"""Keys that every model family shares: data, solver, evaluation."""

from detectron2.config import CfgNode


def add_common_config(cfg: CfgNode) -> None:
    """Add the keys that do not belong to one model. Their defaults leave Detectron2's own models as they are."""
    # Own datasets in COCO's formats, to be named in DATASETS.TRAIN and DATASETS.TEST: a list of dicts with "name",
    # "json_file" and "image_root"; with "panoptic_json" and "panoptic_root" for panoptic annotations; and, for
    # PanopticFPN, with "sem_seg_root" (semantic maps of the stuff, see tools/prepare_panoptic_stuff.py). Classes are
    # those of the files, which also the number of classes of Detectron2's own models follows where it has its default.
    # Relative paths start from the working directory.
    cfg.DATASETS.CUSTOM = []

    _add_input_keys(cfg)
    _add_solver_keys(cfg)

    # A class head of another class count than the checkpoint's is an error; True re-initialises it (fine-tuning).
    cfg.MODEL.REINIT_CLASS_HEAD = False
    # The same for object queries of another number.
    cfg.MODEL.REINIT_QUERIES = False
    # What is taken of a file that holds an average of the weights beside them: "ema", "model", or "auto", the average.
    cfg.MODEL.WEIGHTS_FROM = "auto"

    # Parts whose blocks keep only their inputs in training and are computed again for the gradients, which need less
    # memory and more time: "backbone", "encoder", or "backbone,encoder".
    cfg.MODEL.CHECKPOINT_ACTIVATIONS = ""

    # Where metrics go beside the screen and metrics.json: "tensorboard", "wandb", "mlflow"; the last two, if installed.
    cfg.LOGGERS = ("tensorboard",)

    # Images per process and forward pass in evaluation, at most; those of one size go together, so that results do not
    # depend on it.
    cfg.TEST.IMS_PER_BATCH = 1
    # The metric, as "task/metric", whose best value is kept in model_best.pth. "" keeps none.
    cfg.TEST.BEST_METRIC = "bbox/AP"
    # The training's losses on the test sets among the results ("losses/total_loss", ...), means over the images, each
    # on its own. The test sets must then be such as could be trained on.
    cfg.TEST.LOSSES = False
    # The results are compared with EXPECTED_RESULTS, which published models have in their configs: status 1 where they
    # differ by more than the tolerance.
    cfg.TEST.CHECK_EXPECTED = False
    # A training ends with a table by class and a folder results/ of pictures (tools/summarize.py).
    cfg.TEST.SUMMARY = True
    # Panoptic quality of every class among the results, beside that of all, things and stuff.
    cfg.TEST.PER_CATEGORY_PQ = False


def _add_input_keys(cfg: CfgNode) -> None:
    # Name in DATASET_MAPPER_REGISTRY; "" is Detectron2's own DatasetMapper.
    cfg.INPUT.DATASET_MAPPER = ""
    # Name in AUGMENTATION_REGISTRY; "" is the mapper's own: DETR's ("build_detr_augmentation") or Detectron2's.
    cfg.INPUT.AUGMENTATION = ""
    # Short sides of the first resize, before the crop, in DETR's "resize - crop - resize" branch.
    cfg.INPUT.MIN_SIZE_TRAIN_CROP = (400, 500, 600)
    # Large-scale jitter ("build_large_scale_jitter"): the side of the square that images are cut or padded to, after
    # they were scaled to fit in it and then by a factor from this range.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # Squares ("build_square_augmentation"): the side that every image is squashed to; in training one of several for
    # each batch, () for that one. With these probabilities each of five changes of colours is made, the image is put on
    # a larger canvas, and a crop with a part of an object is taken; from this share of the training on never, and
    # SQUARE_SIZE alone is used.
    cfg.INPUT.SQUARE_SIZE = 640
    cfg.INPUT.SQUARE_SIZE_TRAIN = ()
    cfg.INPUT.PHOTOMETRIC = 0.0
    cfg.INPUT.ZOOM_OUT = 0.0
    cfg.INPUT.IOU_CROP = 0.0
    cfg.INPUT.STRONG_UNTIL = 1.0
    # Truncated or unreadable training images end the run with their name; True logs and skips them.
    cfg.INPUT.SKIP_UNREADABLE_IMAGES = False
    # Annotated boxes without area end the run with their image's name; True drops them with a warning.
    cfg.INPUT.DROP_DEGENERATE_BOXES = False


def _add_solver_keys(cfg: CfgNode) -> None:
    # "SGD" is Detectron2's build_optimizer; "ADAMW" is what the DETR family trains with.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone, as a multiple of BASE_LR (ADAMW only).
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Learning rates of other parameters, as pairs (part of the name, multiple of BASE_LR); the first that fits counts,
    # before BACKBONE_MULTIPLIER (ADAMW only).
    cfg.SOLVER.LR_MULTIPLIERS = ()
    # Weight decay of other parameters, as pairs (part of the name, multiple of WEIGHT_DECAY); the first that fits
    # counts, before Detectron2's WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS (ADAMW only).
    cfg.SOLVER.WEIGHT_DECAY_MULTIPLIERS = ()
    # The images of a step, IMS_PER_BATCH, go through the model in this many small batches, whose gradients are those of
    # one large batch; it must divide them. An iteration is a step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # How long to train, in place of MAX_ITER: passes over the training images, or minutes of training on this machine,
    # beside evaluation (tools/train_net.py times some steps first). 0: MAX_ITER counts. Steps of the learning rate,
    # warm-up and periods of evaluation and checkpoints keep their share.
    cfg.SOLVER.EPOCHS = 0
    cfg.SOLVER.MAX_MINUTES = 0
    # Training ends when this many evaluations in a row brought no better TEST.BEST_METRIC; 0: never before MAX_ITER.
    cfg.SOLVER.EARLY_STOPPING = 0
    # "float16" (with loss scaling, GPUs only) or "bfloat16"; read when SOLVER.AMP.ENABLED.
    cfg.SOLVER.AMP.PRECISION = "float16"
    # An exponential moving average of the weights, evaluated in their place and saved beside them. A step keeps DECAY
    # of it; over the first iterations less, DECAY * (1 - exp(-iteration / WARMUP)).
    cfg.SOLVER.EMA = CfgNode({"ENABLED": False, "DECAY": 0.9997, "WARMUP": 2000})
    # CLIP_GRADIENTS.CLIP_TYPE takes "full_model" beside Detectron2's "value" and "norm", which clip each parameter
    # on its own: one norm over all gradients, as DETR was trained.
