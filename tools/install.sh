#!/usr/bin/env bash
# shellcheck disable=SC2086
# Installs what is missing; where nothing is, it changes nothing and calls no pip. After an interruption, run it again.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tools/install.sh [--dev] [--detectron2 pypi|git] [--python EXE]

Uses the active virtual environment, or makes .venv in this repository, and installs into it
  torch 2.11.0 and torchvision 0.26.0, unless a pair that works is there (torch 2.6 or newer),
  what this package depends on, and the package itself (editable: this clone's files are what runs, so that its
  configs/ and tools/ always fit, and a `git pull` is an upgrade),
  Detectron2, unless it can be imported already.
Needs no compiler. Takes about 6 GB, most of it torch.

  --dev              also what the tests need
  --detectron2 pypi  upstream's Python files of April 2024 from PyPI, hash-checked, without the compiled extension,
                     which nothing here needs (the default)
  --detectron2 git   build upstream's main with its extension, in place of PyPI's files: needs git, a C++ compiler that
                     fits torch and, for GPUs, the CUDA toolkit of torch's own CUDA version
  --python EXE       the Python (3.10 to 3.13) to make .venv with
TEXT
}

die() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "[install] $*"; }

dev='' git='' exe=''
while [ $# -gt 0 ]; do
  case $1 in
    --dev) dev=--dev; shift ;;
    --detectron2)
      case ${2:-} in pypi) git='' ;; git) git=--git ;; *) die "--detectron2 takes pypi or git, not '${2:-}'" ;; esac
      shift 2 ;;
    --python) exe=${2:-}; [ -n "$exe" ] || die "--python takes the name or path of a Python"; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) die "unknown argument '$1' (see --help)" ;;
  esac
done

case $exe in */*) exe=$(cd "$(dirname "$exe")" && pwd)/$(basename "$exe") ;; esac   # a path from here
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$repo"

# --- The environment's Python.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo unknown; }
supported() { case $(version_of "$1") in 3.10|3.11|3.12|3.13) ;; *) false ;; esac; }

make_env() {
  local candidate unfit=''
  if [ -n "$exe" ]; then set -- "$exe"; else set -- python3 python3.13 python3.12 python3.11 python3.10; fi
  for candidate in "$@"; do
    command -v "$candidate" >/dev/null || { unfit="$unfit; $candidate is not there"; continue; }
    supported "$candidate" || { unfit="$unfit; $candidate is version $(version_of "$candidate")"; continue; }
    "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
      { unfit="$unfit; $candidate makes no environments (on Debian and Ubuntu: apt install python3-venv)"; continue; }
    say "making $env with Python $(version_of "$candidate")"
    "$candidate" -m venv --clear "$env" || die "$candidate -m venv failed, see above"
    return
  done
  die "found no Python 3.10 to 3.13 to make $env with${unfit}. Name one with --python."
}

if [ -n "${VIRTUAL_ENV:-}" ]; then
  env=$VIRTUAL_ENV
  [ -z "$exe" ] || die "--python is for making .venv, and $env is active: run 'deactivate' first"
  [ -x "$env/bin/python" ] || die "the active environment $env holds no Python: run 'deactivate' first"
else
  env=$repo/.venv
  [ "$(version_of "$env/bin/python")" != unknown ] || make_env
  [ -z "$exe" ] || [ "$(version_of "$exe")" = "$(version_of "$env/bin/python")" ] ||
    die "$env is of Python $(version_of "$env/bin/python"), $exe is $(version_of "$exe"): remove $env first"
fi
python=$env/bin/python
supported "$python" || die "$env is of Python $(version_of "$python"), needed is 3.10 to 3.13"
check() { "$python" tools/check_install.py "$@"; }

ready() {
  local versions
  versions=$(check all $dev $git) || return 1
  say "ready: $versions"
  [ -n "${VIRTUAL_ENV:-}" ] || say "activate it with: . $env/bin/activate"
}
if ready; then exit 0; fi

set -f   # the lists of requirements below are split into words, and hold stars

# --- torch and torchvision, of one build.
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null || die "$env has no pip and cannot get it"
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
install() { say "installing" "$@"; pip install -q "$@"; }

wanted=$(check torch)
if [ -n "$wanted" ]; then
  say "torch brings the libraries for GPUs along: about 2.5 GB, a few minutes"
  install $wanted
  wanted=$(check torch)
  [ -z "$wanted" ] || { "$python" -c 'import torch, torchvision' || true
    die "torch and torchvision do not work together. 'pip uninstall torch torchvision' and run this again."; }
fi

# --- What this package and Detectron2's Python depend on, then the package.
wanted=$(check requirements $dev)
case $wanted in
  *opencv-python-headless*) pip uninstall -q -y opencv-python opencv-python-headless 2>/dev/null || true ;;   # broken ones
esac
[ -z "$wanted" ] || install $wanted
[ -z "$(check package)" ] || install --no-deps --editable .   # its dependencies: above, where another OpenCV counts, too

# --- Detectron2. Whatever breaks off, the place is left without a detectron2 or with a whole one.
problem=$(check detectron2 $git)
if [ -n "$problem" ]; then
  say "installing Detectron2 ($problem)"
  purelib=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  set +f
  rm -rf "$purelib"/.detectron2-staging-*
  staging=$(mktemp -d "$purelib/.detectron2-staging-XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  if [ -n "$git" ]; then
    pip install -q 'setuptools<82' wheel   # the build imports them and torch; upstream's model_zoo needs pkg_resources
    pip wheel --no-deps --no-build-isolation -w "$staging" 'git+https://github.com/facebookresearch/detectron2.git' ||
      die "Detectron2's build failed, see above; without --detectron2 git, this installs its Python files alone"
  else
    # The wheel is tagged for Python 3.10 for the sake of an extension that nothing loads. It also holds a top-level
    # package "tools", which is left behind and taken out of RECORD, since an uninstall removes what that lists. Its
    # requirements are outdated (numpy<2; setup.py has what counts): pip would report them as conflicts from here on.
    pip install -q --no-deps --only-binary=:all: --python-version 3.10 --require-hashes --target "$staging" \
      -r tools/requirements-detectron2.txt
    for file in "$staging"/sal_detectron2-*.dist-info/{RECORD,METADATA}; do
      grep -v -e '^tools/' -e '^Requires-Dist:' "$file" >"$staging/kept"
      mv "$staging/kept" "$file"
    done
  fi
  rm -rf "$purelib/detectron2" "$purelib"/sal_detectron2-*.dist-info
  if [ -n "$git" ]; then
    pip install -q --no-deps --force-reinstall "$staging"/*.whl
  else
    mv "$staging"/sal_detectron2-*.dist-info "$purelib"
    mv "$staging/detectron2" "$purelib"
  fi
fi

ready || die "installed everything, yet something is still missing: $(check torch) $(check requirements $dev) $(check detectron2 $git)"
