"""What is not trained must come from a checkpoint."""

from .checkpointer import DetrCheckpointer
from .names import BOX_MODEL
from .report import group_names

# Stages of a backbone that are frozen beside a backbone that learns may be random: a small model from scratch.
_BACKBONE = "backbone."


def check_frozen_weights(checkpointer: DetrCheckpointer) -> None:
    """To be called between loading and training, also after a resume.

    Raises:
        ValueError: parameters outside of the backbone need no gradient, so they would stay as they are, and the last
            `load` filled none or not all of them.
    """
    report = checkpointer.last_report
    loaded = set(report.loaded) if report else set()
    frozen = [
        name
        for name, parameter in checkpointer.model.named_parameters()
        if not parameter.requires_grad
        and parameter.numel() > 1  # one number is a setting of the config, such as D-FINE's reg_scale
        and not name.removeprefix(BOX_MODEL).startswith(_BACKBONE)
    ]
    random = [name for name in frozen if name not in loaded]
    if random:
        what = f"the weights of {report.source!r} do not hold" if report else "MODEL.WEIGHTS is empty and fills none of"
        raise ValueError(
            f"{len(random)} frozen tensors of the model would stay random: {what} {group_names(random)}. Set "
            "MODEL.WEIGHTS to a checkpoint of the whole frozen model with the same classes (for the mask stage of a "
            "panoptic DETR: model_final.pth of its box stage, or published weights), or train these parts as well "
            "(MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL False)."
        )
