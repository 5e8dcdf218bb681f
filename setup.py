"""Packaging. PyPI has no Detectron2 of that name, so ``tools/install.sh`` installs it.

``tools/check_install.py`` reads the lists below.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

REPO = Path(__file__).parent
INIT = (REPO / "detr_d2" / "__init__.py").read_text()

REQUIRED = [
    "torch>=2.6",  # weights_only loading by default, one GradScaler for all devices
    "torchvision",  # frozen norm, resizing; Detectron2's RoI layers and NMS
    "numpy>=1.26",
    "scipy",  # Hungarian matching
    "fvcore",  # registries, checkpointer
    "iopath",  # paths and URLs
    "pycocotools",  # COCO annotations and AP
    "safetensors>=0.4",  # weights from and for Hugging Face's transformers; small, wheels for all platforms
    "hotcoco>=1.3",  # AP many times as fast; panoptic quality, since panopticapi is not on PyPI
    "matplotlib",  # curves; Detectron2's visualizer
]
# Drawing and resizing. No requirement of the wheel, since pip would put one into the folder of another that is there:
# opencv-python needs libGL, which servers lack; tools/install.sh takes any cv2 that imports.
OPENCV = ["opencv-python-headless"]
# What the Python of Detectron2 needs at run time: its wheel is installed without its own, partly outdated, pins.
DETECTRON2_NEEDS = [
    "Pillow>=7.1",  # reading images
    "cloudpickle",  # sharing data sets among processes
    "hydra-core>=1.1",  # overrides of LazyConfig
    "omegaconf>=2.1,<2.4",  # LazyConfig
    "packaging",  # version checks
    "tabulate",  # tables of results
    "tensorboard",  # event writer
    "termcolor>=1.1",  # log
    "tqdm",  # imported with the data loaders
    "yacs>=0.1.8",  # CfgNode
]
# Writing and running ONNX files. Python 3.10 has wheels of onnx up to 1.23 and of onnxruntime up to 1.23.
EXPORT = [
    "onnx>=1.17,<2",
    "onnxruntime>=1.20,<2",
    "onnxscript>=0.5,<0.8",  # what torch's exporter writes operators with
]
DEV = [
    "hypothesis>=6.100,<7",  # property-based tests
    "onnx>=1.17,<2",  # these three: as in EXPORT
    "onnxruntime>=1.20,<2",
    "onnxscript>=0.5,<0.8",
    "pytest>=8,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "setuptools>=77,<82",  # builds wheels by itself
    "ruff==0.17.5",  # one version, since formatting differs from version to version
    "transformers>=5.20,<5.24",  # the reference in parity tests and benchmarks; 5.20 is the last for Python 3.10
]
# A compiled operator, for GPUs without Triton. Source only: needs g++ (for GPUs nvcc), setuptools >= 77, < 82, and
# pip install --no-build-isolation, so that it is built against the torch that is installed.
EXTERNAL_OPERATOR = ["torch-ms-deform-attn>=0.1.1,<0.2"]

# To measure beside (tools/benchmark.py --reference openvino): Apache-2.0, a wheel of 56 MiB.
OPENVINO = ["openvino>=2026"]


class BuildWithConfigs(build_py):
    """Puts configs/ into the package that is built, as Detectron2 does with its own; here it stays at the top."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            shutil.copytree(REPO / "configs", Path(self.build_lib) / "detr_d2" / "configs", dirs_exist_ok=True)


setup(
    name="detr_d2",
    version=re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE).group(1),
    description="The DETR family inside Detectron2",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["detr_d2", "detr_d2.*"]),
    package_data={"detr_d2.explore": ["assets/*", "assets/vendor/*"]},
    py_modules=["detr_d2_command"],
    entry_points={"console_scripts": ["detr-d2 = detr_d2_command:main"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=REQUIRED + DETECTRON2_NEEDS,
    extras_require={
        "opencv": OPENCV,
        "dev": DEV,
        "export": EXPORT,
        "openvino": OPENVINO,
        "torch-ms-deform-attn": EXTERNAL_OPERATOR,
    },
)
