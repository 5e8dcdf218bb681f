"""One JSON a model: what has been measured, and of what, so that nothing is measured twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import read_json, whole_file


class ResultFile:
    """The results of one model, by part.

    Each part keeps what it depends on (``inputs``); it is computed again where that has changed. The file is replaced
    in one step after every part, so that an interrupted comparison goes on where it was.

    Args:
        path: of the JSON; read if it exists.

    Raises:
        ValueError: the file is not such a JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {"parts": {}}
        if path.is_file():
            try:
                self.data = read_json(path)
                self.data["parts"].keys()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is no result of this tool: remove it, or choose another --output.") from error

    def describe(self, **values: Any) -> None:
        """Save what is known of the model itself."""
        self.data |= values
        self.save()

    def get(self, part: str, inputs: dict[str, Any]) -> Any:
        """The result of a part that was computed from the same inputs; None where there is none."""
        saved = self.data["parts"].get(part)
        return saved["result"] if saved and saved["inputs"] == plain(inputs) else None

    def put(self, part: str, inputs: dict[str, Any], result: Any, environment: dict[str, Any]) -> Any:
        """Save the result of a part; returns it as it will be read."""
        result = plain(result)
        self.data["parts"][part] = {"inputs": plain(inputs), "environment": plain(environment), "result": result}
        self.save()
        return result

    def compute(
        self, part: str, inputs: dict[str, Any], environment: dict[str, Any], function: Callable[[], Any]
    ) -> Any:
        """The saved result, or else that of ``function``."""
        result = self.get(part, inputs)
        return self.put(part, inputs, function(), environment) if result is None else result

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, indent=1, allow_nan=False) + "\n"
        with whole_file(self.path) as partial:
            partial.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """A value as JSON will give it back: lists for tuples, None for NaN and infinity."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
