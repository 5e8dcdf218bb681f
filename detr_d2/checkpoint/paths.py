"""``torchvision://`` paths: torchvision's published ImageNet weights by name, through Detectron2's PathManager."""

from typing import Any

import torchvision
from detectron2.utils.file_io import PathHandler, PathManager


class TorchvisionHandler(PathHandler):
    """``torchvision://resnet50`` and ``torchvision://resnet50/IMAGENET1K_V2``.

    Without a name of weights it is torchvision's first, from which DETR was trained.
    """

    PREFIX = "torchvision://"
    DEFAULT_WEIGHTS = "IMAGENET1K_V1"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        model, _, weights = path[len(self.PREFIX) :].partition("/")
        try:
            url = torchvision.models.get_model_weights(model)[weights or self.DEFAULT_WEIGHTS].url
        except (ValueError, KeyError) as error:
            raise FileNotFoundError(
                f"{path}: torchvision {torchvision.__version__} publishes no such weights; expected "
                f"{self.PREFIX}MODEL or {self.PREFIX}MODEL/WEIGHTS, such as {self.PREFIX}resnet50/IMAGENET1K_V2."
            ) from error
        return PathManager.get_local_path(url, force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(TorchvisionHandler(), allow_override=True)
