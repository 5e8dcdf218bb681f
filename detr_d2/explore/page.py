"""One file of HTML from the data and the modules in `assets/`.

Data is JSON in blocks that are no script, in which ``<`` is written as an escape, so that no name in it can end its
block. A Content-Security-Policy allows the packed scripts by their hashes and nothing else: no network, no ``eval``.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
# In the order in which they depend on each other.
MODULES = ("data", "rle", "filters", "draw", "grid", "detail", "charts", "tables", "main")
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def pack_page(data: dict[str, Any], pictures: list[str]) -> str:
    """The page.

    Args:
        data: what `detr_d2.cli.explore` collects.
        pictures: JPEGs in base64, as many as there are images.
    """
    script = pack_modules()
    library = (ASSETS / "vendor" / "uPlot.iife.min.js").read_text()
    style = (ASSETS / "vendor" / "uPlot.min.css").read_text() + (ASSETS / "style.css").read_text()
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src {_hash(style)}; "
        "img-src blob: data: 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "style": style,
        "library": library,
        "script": script,
        "data": embed_json(data),
        "pictures": embed_json(pictures),
    }
    template = (ASSETS / "page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def pack_modules() -> str:
    """The modules one after another, as one: their imports of each other go, and their names are those of one scope."""
    texts = (ASSETS / f"{name}.js" for name in MODULES)
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", path.read_text())) for path in texts)


def embed_json(value: Any) -> str:
    """JSON that no browser takes for the end of a block, or for a comment in it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
