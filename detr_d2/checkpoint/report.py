"""What a checkpoint did to a model, as a value and as text."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoadReport:
    """The names of a model's and a checkpoint's tensors, by what happened to them. Names are the model's.

    Attributes:
        source: the path or URL.
        layout: `Layout.name`, or "Detectron2" for its standard loading.
        note: `Layout.note`.
        loaded: copied into the model.
        missing: in the model, not in the checkpoint; they keep their initial values.
        unexpected: in the checkpoint, not in the model.
        mismatched: in both with different shapes, not loaded (Detectron2's standard loading only).
        reindexed: those of ``loaded`` whose class rows were re-indexed.
        reinitialized: left at their initial values because a new class head was asked for.
        ignored: tensors that such a checkpoint holds and no detector needs (a classifier, counters).
    """

    source: str
    layout: str
    note: str = ""
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    reindexed: tuple[str, ...] = ()
    reinitialized: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was loaded and every needed tensor of the checkpoint used."""
        return not (self.missing or self.unexpected or self.mismatched or self.reinitialized)

    def renamed(self, names: Mapping[str, str]) -> "LoadReport":
        """The same report with other names for some tensors."""
        lists = {key: value for key, value in vars(self).items() if isinstance(value, tuple)}
        return replace(self, **{key: tuple(names.get(name, name) for name in value) for key, value in lists.items()})

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in ("loaded", "missing", "unexpected", "mismatched")}
        counts |= {"re-indexed": self.reindexed, "re-initialised": self.reinitialized, "ignored": self.ignored}
        totals = ", ".join(f"{len(keys)} {name}" for name, keys in counts.items())
        lines = [f"{self.source} ({self.layout} layout): {totals}", *([f"  {self.note}"] if self.note else [])]
        lines += [f"  {name}: {group_names(keys)}" for name, keys in counts.items() if keys and name != "loaded"]
        return "\n".join(lines)


def group_names(names: Collection[str], max_groups: int = 8) -> str:
    """Names on one line, grouped by a common prefix: ``backbone.res4.* (120), query_embed.weight``."""
    depth = 1
    groups = list(_groups(names, depth))
    # The finest grouping that still fits on a line.
    while len(finer := list(_groups(names, depth + 1))) <= max_groups and finer != groups:
        depth, groups = depth + 1, finer
    shown = ", ".join(groups[:max_groups])
    return shown if len(groups) <= max_groups else f"{shown} and {len(groups) - max_groups} more groups"


def _groups(names: Collection[str], depth: int) -> Iterator[str]:
    members: dict[str, list[str]] = {}
    for name in sorted(names):
        members.setdefault(".".join(name.split(".")[:depth]), []).append(name)
    for prefix, group in members.items():
        yield group[0] if len(group) == 1 else f"{prefix}.* ({len(group)})"
