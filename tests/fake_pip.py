"""Stands in for pip in tests of tools/install.sh: writes stubs of packages, and every call into the file $PIP_LOG.

Where $PIP_BREAKS_AT is part of a call, it is killed half way through that call.
"""

import os
import re
import signal
import sys
import sysconfig
from pathlib import Path

STUBS = {
    "torch": "__version__ = '2.11.0+cu130'\ndef tensor(x): return x\nones = tensor\n",
    "torchvision": "class ops:\n    nms = print\n__version__ = '0.26.0+cu130'\n",
    "opencv-python-headless": "",
    "detectron2": "__version__ = '0.6'\n",
    "sal-detectron2": "__version__ = '0.6'\n",
}
REQUIRES = "Requires-Dist: numpy<2\n"
MODULES = {"opencv-python-headless": "cv2", "sal-detectron2": "detectron2"}


def write_package(site: Path, name: str, version: str) -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{REQUIRES}")
    if name in STUBS:
        module = site / MODULES.get(name, name)
        module.mkdir(exist_ok=True)
        (module / "__init__.py").write_text(STUBS[name])
        (info / "RECORD").write_text(f"{module.name}/__init__.py,,\ntools/__init__.py,,\n")


def write_detectron2_parts(site: Path) -> None:
    for part in ("engine", "evaluation", "modeling"):
        (site / "detectron2" / f"{part}.py").touch()


def main(args: list[str]) -> None:
    call = " ".join(args)
    site = Path(sysconfig.get_paths()["purelib"])
    with open(os.environ["PIP_LOG"], "a") as log:
        log.write(call.replace(str(site), "SITE") + "\n")
    breaks = os.environ.get("PIP_BREAKS_AT", "nowhere") in call
    if "--target" in args:
        site = Path(args[args.index("--target") + 1])
        write_package(site, "sal-detectron2", "0.7.2")
        (site / "tools").mkdir()
        if breaks:
            os.kill(os.getppid(), signal.SIGKILL)  # install.sh itself, so that no trap tidies up
        write_detectron2_parts(site)
        return
    if breaks:
        sys.exit("broken off")
    if "--editable" in args:
        info = site / "detr_d2-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detr_d2\nVersion: 0.1.0\n")
        (info / "direct_url.json").write_text(f'{{"dir_info": {{"editable": true}}, "url": "{Path.cwd().as_uri()}"}}')
    elif args[0] == "wheel":
        Path(args[args.index("-w") + 1], "detectron2-0.6.whl").touch()
    elif args[0] == "uninstall":
        for name in args:
            for info in site.glob(f"{name.replace('-', '_')}-*.dist-info"):
                for file in info.iterdir():
                    file.unlink()
                info.rmdir()
    elif args[0] == "install":
        for arg in args[1:]:
            if arg.endswith(".whl"):
                write_package(site, *Path(arg).stem.split("-"))
                write_detectron2_parts(site)
            elif not arg.startswith("-"):
                version = re.search("[>=]=([0-9.]*[0-9])", arg)
                write_package(site, re.match("[A-Za-z0-9_-]+", arg)[0], version[1] if version else "1")


if __name__ == "__main__":
    main([arg for arg in sys.argv[1:] if arg != "--disable-pip-version-check"])
