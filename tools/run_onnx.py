#!/usr/bin/env python
import runpy
from pathlib import Path

# By its path: the file needs nothing of the package, so it runs where that is not installed.
runpy.run_path(str(Path(__file__).parents[1] / "detr_d2" / "cli" / "run_onnx.py"), run_name=__name__)
