"""Packaging. Detectron2 itself is not on PyPI under its name: ``tools/install.sh`` installs it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "detr_d2" / "__init__.py").read_text()).group(1)

# What this package uses.
REQUIRED = [
    "torch>=2.6",  # weights_only loading by default, GradScaler for any device
    "torchvision",  # frozen norm; Detectron2's RoI layers and NMS
    "numpy",
    "scipy",  # Hungarian matching
    "fvcore",  # registries, checkpointer
    "iopath",  # paths and URLs
    "pycocotools",  # COCO annotations and AP
    "opencv-python",  # drawing and resizing
    "matplotlib",  # curves; Detectron2's visualizer
    "tqdm",
]
# What Detectron2's Python needs at run time: the PyPI wheel is installed without its pinned dependencies.
DETECTRON2_NEEDS = [
    "Pillow>=7.1",
    "cloudpickle",
    "hydra-core>=1.1",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "yacs>=0.1.8",
]
DEV = [
    "hypothesis",  # property-based tests
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff==0.17.5",  # pinned: formatting differs from version to version
    "transformers==5.23.*",  # reference implementation in parity tests and benchmarks
]

setup(
    name="detr_d2",
    version=VERSION,
    description="The DETR family inside Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["detr_d2", "detr_d2.*"]),
    install_requires=REQUIRED + DETECTRON2_NEEDS,
    extras_require={"dev": DEV},
)
