#!/usr/bin/env bash
# Installs what is missing; run again, it changes nothing. Needs no compiler.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tools/install.sh [--dev] [--detectron2 pypi|git] [--python EXE]

Uses the active virtual environment, or makes .venv in this repository, and installs into it
  torch 2.11.0 and torchvision 0.26.0, unless a pair that works is there (torch 2.6 or newer),
  this package (editable: the clone is what runs) and what it depends on,
  Detectron2, unless it can be imported already.

  --dev              also what the tests need
  --detectron2 pypi  upstream's Python files of April 2024 from PyPI, hash-checked, without the compiled
                     extension, which nothing here needs (the default)
  --detectron2 git   build upstream's main with its extension: needs git, a C++ compiler and, for GPUs, the CUDA
                     toolkit of torch's own version
  --python EXE       the Python (3.10 to 3.13) to make .venv with
TEXT
}

dev=0 source=pypi python=
while [ $# -gt 0 ]; do
  case $1 in
    --dev) dev=1; shift ;;
    --detectron2) source=${2:-}; shift; [ $# -eq 0 ] || shift ;;
    --python) python=${2:-}; shift; [ $# -eq 0 ] || shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "install.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
done
case $source in pypi|git) ;; *) echo "install.sh: --detectron2 takes pypi or git, not '$source'" >&2; exit 2 ;; esac

die() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "[install] $*"; }
supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"

# --- a virtual environment with a Python that all dependencies support
if [ -n "${VIRTUAL_ENV:-}" ]; then
  env=$VIRTUAL_ENV
else
  env=$repo/.venv
  if [ ! -x "$env/bin/python" ]; then
    for candidate in ${python:-python3 python3.13 python3.12 python3.11 python3.10}; do
      if command -v "$candidate" >/dev/null && supported "$candidate"; then found=$candidate; break; fi
    done
    [ -n "${found:-}" ] || die "needs Python 3.10 to 3.13, and ${python:-python3} is $("${python:-python3}" -V 2>&1 || true): name one with --python"
    say "making $env with $("$found" -V)"
    "$found" -m venv "$env" || die "'$found -m venv' failed; on Debian and Ubuntu install python3-venv, then remove $env and try again"
  fi
fi
py=$env/bin/python
supported "$py" || die "$env holds $("$py" -V 2>&1), needs Python 3.10 to 3.13"
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip -q || die "$env has no pip; remove it and try again"
pip() { "$py" -m pip --disable-pip-version-check "$@"; }

# --- torch and torchvision, which have to be of one build
pair_works() {
  "$py" - <<'PYTHON'
import sys
try:
    import torch
except ImportError:
    sys.exit(1)
if tuple(int(x) for x in torch.__version__.split(".")[:2]) < (2, 6):
    sys.exit(f"install.sh: torch {torch.__version__} is older than 2.6: upgrade it, or use another environment")
try:
    import torchvision
except ImportError:
    sys.exit(3)
except Exception as error:
    problem = error
else:
    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
        sys.exit(0)
    except Exception as error:
        problem = error
hint = "A CPU build of torch does not work with PyPI's torchvision. " if "+cpu" in torch.__version__ or not torch.version.cuda else ""
sys.exit(f"install.sh: torch {torch.__version__} does not work with the torchvision that is installed ({problem}). {hint}"
         "Install torchvision from where this torch came from, or remove both and run this again.")
PYTHON
}
status=0; pair_works || status=$?
if [ "$status" -eq 1 ] && ! "$py" -c "import torch" 2>/dev/null; then
  say "installing torch 2.11.0 and torchvision 0.26.0"
  pip install -q torch==2.11.0 torchvision==0.26.0
  pair_works || die "torch was installed, but does not work: see above"
elif [ "$status" -eq 3 ]; then
  die "torch is there without torchvision: install the torchvision that was built for it (the table in torchvision's README), then run this again"
elif [ "$status" -ne 0 ]; then
  exit 1
fi

# --- this package and its dependencies
missing() {
  DEV=$dev REPO=$repo "$py" - <<'PYTHON'
import importlib.metadata as metadata, importlib.util, json, os
from pathlib import Path
from packaging.requirements import Requirement

package = metadata.distribution("detr_d2")  # raises where it is not installed
url = json.loads(package.read_text("direct_url.json") or "{}").get("url", "")
assert url == Path(os.environ["REPO"]).as_uri(), f"installed from {url}"
for text in package.requires:
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": "dev" if os.environ["DEV"] == "1" else ""}):
        continue
    try:
        if metadata.version(requirement.name) in requirement.specifier:
            continue
    except metadata.PackageNotFoundError:
        if requirement.name == "opencv-python" and importlib.util.find_spec("cv2"):
            continue  # opencv-python-headless is as good, and the two must not be installed together
    print(f"{requirement.name}{requirement.specifier}")
PYTHON
}
if ! list=$(missing 2>/dev/null); then
  say "installing detr_d2 from $repo"
  "$py" -c "import packaging" 2>/dev/null || pip install -q packaging
  pip install -q --no-deps -e .
  list=$(missing)
fi
if [ -n "$list" ]; then
  say "installing" $list
  pip install -q $list
fi

# --- Detectron2
detectron2_works() { (cd / && "$py" -c "import detectron2.engine, detectron2.evaluation, detectron2.modeling" 2>/dev/null); }
if ! detectron2_works; then
  if [ "$source" = git ]; then
    say "building Detectron2 from its main branch"
    pip install -q setuptools wheel
    pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'
  else
    say "installing Detectron2's Python files"
    purelib=$("$py" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    # Unpacked beside its place and moved, so that a run that breaks off leaves nothing half there. The wheel is tagged for
    # Python 3.10 for the sake of an extension that is not used; it also holds a package "tools", which stays behind.
    staging=$(mktemp -d "$purelib/.detectron2.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
    pip install -q --no-deps --only-binary=:all: --python-version 3.10 --require-hashes --target "$staging" \
      -r tools/requirements-detectron2.txt
    rm -rf "$purelib/detectron2" "$purelib"/sal_detectron2-*.dist-info
    mv "$staging"/sal_detectron2-*.dist-info "$staging/detectron2" "$purelib/"
  fi
  detectron2_works || { (cd / && "$py" -c "import detectron2.engine, detectron2.evaluation, detectron2.modeling") || true
    die "Detectron2 was installed but cannot be imported: see above"; }
fi

(cd / && "$py" - <<'PYTHON'
import platform, detectron2, torch, torchvision
print(f"[install] ready: Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
      f"Detectron2 {detectron2.__version__}")
PYTHON
)
[ -n "${VIRTUAL_ENV:-}" ] || say "activate it with: . .venv/bin/activate"
