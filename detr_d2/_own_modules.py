"""Models, backbones and mappers in somebody's own files: what registers them for every tool and every process."""

import importlib.util
import os
import sys
from pathlib import Path

# Modules or files (.py), separated as in PATH, which ``import detr_d2`` imports at its end. Processes that a tool
# starts inherit it. It is the user's own word, as PYTHONPATH is: no config and no checkpoint can name a file to run.
IMPORT_VARIABLE = "DETR_D2_IMPORT"


def import_own_modules() -> None:
    """Import what the environment variable `IMPORT_VARIABLE` names, in its order.

    Raises:
        ImportError: there is no such module or file, or a file has the name of another module. What a module itself
            raises is raised as it is.
    """
    for word in filter(None, os.environ.get(IMPORT_VARIABLE, "").split(os.pathsep)):
        if word.endswith(".py"):
            _import_file(Path(word))
        elif importlib.util.find_spec(word.partition(".")[0]) is None:
            raise ImportError(f"{IMPORT_VARIABLE} names {word!r}, which is no module on Python's path and no .py file.")
        else:
            importlib.import_module(word)


def _import_file(path: Path) -> None:
    """As the module of its name, with its folder at the end of Python's path, where it finds what lies beside it."""
    if not path.is_file():
        raise ImportError(f"{IMPORT_VARIABLE} names {path}, which is no file.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.import_module(path.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise ImportError(f"{IMPORT_VARIABLE} names {path}, but {path.stem} is another module's name: rename the file.")
