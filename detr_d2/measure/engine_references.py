"""Our own model, exported to ONNX with the same weights, in the programs that people deploy such files with.

A program gets the batch that ours gets, pads it in its time, and ends with boxes, scores and classes in the batch's
pixels, of models with masks with their logits: it is timed for less than ours, which ends in `Instances`.
"""

import importlib.util
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..export import FORMATS, graph_of
from ..export.capture import Shape, check_shape, record
from ..export.check import compare, pad
from .workloads import Agreement, OurWorkload, ReferenceWorkload

Run = Callable[[Tensor, Tensor], dict[str, Tensor]]


class EngineWorkload(ReferenceWorkload):
    """A file of the model, for its batch alone, in one of these programs."""

    package: str

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        self.model, self.graph = ours, graph_of(type(ours))(ours.eval())
        self.images = [item["image"] for item in inputs]
        multiple = self.graph.size_multiple
        height, width = (-(-max(image.shape[axis] for image in self.images) // multiple) * multiple for axis in (1, 2))
        self.shape = Shape(len(self.images), height, width, False, multiple)
        check_shape(self.graph, self.shape)
        file_format = FORMATS["onnx"]
        file_format.check(self.graph)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            file_format.write(path, record(self.graph, self.shape), self.graph.output_names, {}, 18)
            self.exact = self.load(path, False)
            self.fast = self.load(path, True) if cfg.SOLVER.AMP.ENABLED else self.exact
        self.description = {"model": f"our file of ONNX in {self.package} {version(self.package)}"}

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if importlib.util.find_spec(cls.package) is None:
            raise ImportError(f"--reference {cls.package} needs it installed: pip install {cls.package}")
        if cfg.MODEL.DEVICE != "cpu":
            raise ValueError(
                f"--reference {cls.package} runs on the CPU: set MODEL.DEVICE cpu, not {cfg.MODEL.DEVICE}."
            )
        graph_of(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))

    @abstractmethod
    def load(self, path: Path, reduced: bool) -> Run:
        """The file, ready to run with torch's number of threads; ``reduced``: in bf16."""

    def infer(self) -> list[dict[str, Tensor]]:
        return [self.fast(*pad(self.images, self.shape))]

    def loss(self) -> Tensor:
        raise ValueError(f"{self.package} does not train: --mode inference.")

    def compare(self, ours: OurWorkload) -> Agreement:
        found = compare(self.graph, self.exact, self.images, self.shape)
        differences = {"unmatched": found.unmatched, "scores": found.score, "boxes": found.box, "logits": found.logit}
        sentence = (
            "{detections} detections, {unmatched} of them in one alone; scores differ by at most {scores:.1e}, boxes "
            "by {boxes:.1e} of the image's side, logits of masks by {logits:.1e} of the largest."
        )
        return Agreement(differences, {"detections": found.detections}, sentence)


class OnnxruntimeWorkload(EngineWorkload):
    """onnxruntime, in fp32."""

    package = "onnxruntime"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        if cfg.SOLVER.AMP.ENABLED:
            raise ValueError("--reference onnxruntime has no bf16 on CPUs: leave --amp out, or take openvino.")

    def load(self, path: Path, reduced: bool) -> Run:
        return FORMATS["onnx"].load(path, self.graph.output_names)


class OpenvinoWorkload(EngineWorkload):
    """OpenVINO's plugin for CPUs, with the hint to answer one request as soon as possible."""

    package = "openvino"

    def load(self, path: Path, reduced: bool) -> Run:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled, names = openvino.Core().compile_model(str(path), "CPU", options), self.graph.output_names

        def run(images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
            found = compiled([images.numpy(), sizes.numpy()])
            return {name: torch.from_numpy(found[name].copy()) for name in names}

        return run
