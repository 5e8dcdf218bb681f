"""Files that hold an exported model: ONNX and torch's own.

Each format writes a program with its description into one file, and runs such a file.
"""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..layers import ModulatedDeformConv
from .graphs import Graph

Program = Callable[[Tensor, Tensor], dict[str, Tensor]]  # images, sizes -> outputs by name

INPUT_NAMES = ("images", "sizes")
# `torch.export` decides how a pooling rounds when it records it: free sizes of its programs leave it no choice.
PROGRAM_MULTIPLE = 4
# Of one protobuf message.
MAX_ONNX_BYTES = 2**31 - 1
# Name of the description in torch's files.
DESCRIPTION = "description.json"


class Format(ABC):
    """How programs lie in files.

    Attributes:
        suffix: of the files' names.
        has_opset: whether they are of a version of ONNX's operators.
    """

    suffix: str
    has_opset = False

    def check(self, graph: Graph) -> None:  # noqa: B027 (a format without restrictions has none)
        """Raise a ValueError where this graph cannot be written, or what writes it is not installed."""

    def size_multiple(self, graph: Graph) -> int:
        """What free heights and widths are to be multiples of."""
        return graph.size_multiple

    @abstractmethod
    def write(
        self, path: Path, program: ExportedProgram, output_names: tuple[str, ...], facts: dict[str, str], opset: int
    ) -> None:
        """One file at ``path``; ``opset`` is ONNX's version of its operators."""

    @abstractmethod
    def load(self, path: Path, output_names: tuple[str, ...]) -> Program:
        """What is in the file, ready to run on CPU tensors."""


class OnnxFormat(Format):
    """ONNX, run by onnxruntime on the CPU."""

    suffix = ".onnx"
    has_opset = True

    def check(self, graph: Graph) -> None:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(f"ONNX needs {', '.join(missing)}, not installed: pip install -e '.[export]'")
        if any(isinstance(module, ModulatedDeformConv) for module in graph.model.modules()):
            raise ValueError(
                "Deformable convolutions (DCNv2) have no ONNX operator that torch writes: use --format torch_export."
            )
        size = sum(x.numel() * x.element_size() for x in graph.state_dict().values())
        if size > 0.95 * MAX_ONNX_BYTES:
            raise ValueError(
                f"The model has {size / 2**30:.1f} GiB, more than one ONNX file holds: --format torch_export."
            )

    def write(
        self, path: Path, program: ExportedProgram, output_names: tuple[str, ...], facts: dict[str, str], opset: int
    ) -> None:
        import onnx

        from .onnx_graph import TORCH_OPSET, finish

        with _quiet():
            result = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=TORCH_OPSET,
                input_names=list(INPUT_NAMES),
                output_names=list(output_names),
                optimize=False,
                verbose=False,
            )
            finish(result.model, opset, facts)
        result.save(str(path), external_data=False)
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise ValueError(f"--opset {opset}: this model has no valid form in it ({error}).") from error

    def load(self, path: Path, output_names: tuple[str, ...]) -> Program:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
            inputs = dict(zip(INPUT_NAMES, (images.numpy(), sizes.numpy()), strict=True))
            outputs = session.run(list(output_names), inputs)
            return {name: torch.from_numpy(x) for name, x in zip(output_names, outputs, strict=True)}

        return run


class TorchExportFormat(Format):
    """`torch.export.save`'s files, which `torch.export.load` reads without this package."""

    suffix = ".pt2"

    def size_multiple(self, graph: Graph) -> int:
        return max(PROGRAM_MULTIPLE, graph.size_multiple)

    def write(
        self, path: Path, program: ExportedProgram, output_names: tuple[str, ...], facts: dict[str, str], opset: int
    ) -> None:
        description = {"inputs": json.dumps(INPUT_NAMES), "outputs": json.dumps(output_names), **facts}
        with _quiet():
            torch.export.save(program, str(path), extra_files={DESCRIPTION: json.dumps(description)})

    def load(self, path: Path, output_names: tuple[str, ...]) -> Program:
        module = torch.export.load(str(path)).module()

        @torch.no_grad()
        def run(images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
            return dict(zip(output_names, module(images, sizes), strict=True))

        return run


FORMATS: dict[str, Format] = {"onnx": OnnxFormat(), "torch_export": TorchExportFormat()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript say of their own affairs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
