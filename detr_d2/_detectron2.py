"""The check that Detectron2 can be imported and OpenCV is there, before the rest of the package asks for them."""

import importlib
import importlib.util
import sys

# What of Detectron2 ``import detr_d2`` itself needs.
_PARTS = ("detectron2", "detectron2.config", "detectron2.data", "detectron2.modeling")
_INSTALL = (
    "In a clone of detr_d2, `bash tools/install.sh` installs Detectron2's Python files, which need no compiler; "
    "`bash tools/install.sh --detectron2 git` builds upstream's main with its compiled extension."
)


def require_detectron2() -> None:
    """Import Detectron2.

    Raises:
        ImportError: it is not installed, or it is but fails to import; the message says which, why, and what to do.
    """
    try:
        for part in _PARTS:
            importlib.import_module(part)
    except Exception as error:  # not only ImportError: a torchvision of another torch ends in RuntimeError or OSError
        if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
            raise ImportError(
                f"detr_d2 extends Detectron2, which is not installed. {_INSTALL}", name="detectron2"
            ) from error
        places = ", ".join(getattr(sys.modules.get("detectron2"), "__path__", ())) or "unknown place"
        raise ImportError(
            f"detr_d2 extends Detectron2, which was found ({places}) but failed to import: "
            f"{type(error).__name__}: {error}. Run `bash tools/install.sh` in a clone of detr_d2: it installs what is "
            "missing, or says what does not fit together.",
            name="detectron2",
        ) from error


def require_opencv() -> None:
    """OpenCV is no requirement of the wheel, since pip would put one of its packages into the folder of another.

    Raises:
        ImportError: none of them is installed.
    """
    if importlib.util.find_spec("cv2") is None:
        raise ImportError(
            "detr_d2 needs OpenCV, which is not installed: `pip install opencv-python-headless`, or, to show "
            "windows, `pip install opencv-python`; one of them, not both.",
            name="cv2",
        )
