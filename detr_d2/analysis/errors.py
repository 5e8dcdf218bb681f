"""What is wrong with each detection, and what AP would be without it: TIDE (Bolya et al., ECCV 2020).

A detection that matches no object, in COCO's protocol at the foreground IoU, is false. What kind of mistake it is
follows from its overlap with objects of its own class and of others. The weight of a kind is the AP that repairing it
alone gains; those of several do not add up, since what repairs one shows or hides another.

Legend: I images, K classes, D detections, G objects.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from .matches import Matches
from .precision import average_precision, precision_by_class
from .scenes import Scenes

FOREGROUND = 0.5  # IoU from which a detection has found an object
BACKGROUND = 0.1  # IoU below which it has nothing to do with it

# Kinds of detections; those from "classification" on are errors. An object that nothing explains is "missed".
DETECTION_KINDS = ("ignored", "correct", "classification", "localisation", "both", "duplicate", "background")
IGNORED, CORRECT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, OUTSIDE = range(len(DETECTION_KINDS))
ERROR_KINDS = (*DETECTION_KINDS[CLASSIFICATION:], "missed")
# All false detections removed; all objects that no detection matches forgiven.
SUMMARY_KINDS = ("false positives", "false negatives")


@dataclass(frozen=True)
class Errors:
    """The kind of every detection.

    Attributes:
        scenes: what was analysed.
        kind: D, index into `DETECTION_KINDS`. ``ignored`` are those in crowds of their class.
        target: D, the object that a correct detection matches, or that one of "classification" or "localisation"
            would match if it were repaired; else -1.
    """

    scenes: Scenes
    kind: np.ndarray
    target: np.ndarray

    def missed(self, threshold: float = 0.0) -> np.ndarray:
        """G, bool: objects that no detection of at least this score matches, or would match if it were repaired."""
        return self._unmatched((CORRECT, CLASSIFICATION, LOCALISATION), threshold)

    def unmatched(self, threshold: float = 0.0) -> np.ndarray:
        """G, bool: objects that no detection of at least this score matches."""
        return self._unmatched((CORRECT,), threshold)

    def _unmatched(self, kinds: Collection[int], threshold: float) -> np.ndarray:
        unmatched = ~self.scenes.crowd
        unmatched[self.target[np.isin(self.kind, kinds) & (self.scenes.score >= threshold)]] = False
        return unmatched

    def counts(self, threshold: float = 0.0) -> dict[str, int]:
        """How many errors of each of `ERROR_KINDS` and `SUMMARY_KINDS` the detections of at least this score make."""
        kinds = self.kind[self.scenes.score >= threshold]
        counts = np.bincount(kinds, minlength=len(DETECTION_KINDS))[CLASSIFICATION:].tolist()
        objects = int(self.missed(threshold).sum()), int(self.unmatched(threshold).sum())
        return dict(zip((*ERROR_KINDS, *SUMMARY_KINDS), [*counts, objects[0], sum(counts), objects[1]], strict=True))

    def curve(self, label: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, best first, and precision and recall of the detections from each of them on; ``label``: of one class,
        else of all together.
        """
        counted, objects = self.kind != IGNORED, ~self.scenes.crowd
        if label is not None:
            counted, objects = counted & (self.scenes.label == label), objects & (self.scenes.object_label == label)
        score, correct = self.scenes.score[counted], np.cumsum(self.kind[counted] == CORRECT)
        last = np.append(score[1:] != score[:-1], True)[: len(score)]  # those with one score come or go together
        precision, recall = correct / np.arange(1, len(score) + 1), correct / max(1, objects.sum())
        return score[last], precision[last], recall[last]

    def best_threshold(self) -> float:
        """The score with the best F1 of all classes together, precision and recall of the detections from it on."""
        score, precision, recall = self.curve()
        if not recall.any():
            return 0.5
        return float(score[np.argmax(f1_score(precision, recall))])


def f1_score(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """The harmonic mean, elementwise; 0 where both are."""
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def find_errors(scenes: Scenes) -> Errors:
    """Match in COCO's protocol, and say what is wrong with what does not match.

    The paper's definitions, with a = the largest IoU with an object of the detection's class and b = with one of
    another: localisation 0.1 <= a < 0.5; classification b >= 0.5; duplicate a >= 0.5, so that a better detection has
    the object; background a, b < 0.1; both, the rest. Where several hold, the first. Crowds are no objects here.
    """
    same = scenes.label[scenes.pair_detection] == scenes.object_label[scenes.pair_object]
    close = scenes.pair_iou >= FOREGROUND
    crowd = scenes.crowd[scenes.pair_object]
    target = match_greedily(scenes, same & close & ~crowd, scenes.pair_iou)
    in_crowd = np.zeros(len(scenes.score), dtype=bool)
    in_crowd[scenes.pair_detection[same & close & crowd]] = True

    own_iou, own = _best(scenes, same & ~crowd)
    other_iou, other = _best(scenes, ~same & ~crowd)
    conditions = [
        target >= 0,
        in_crowd,
        (own_iou >= BACKGROUND) & (own_iou < FOREGROUND),
        other_iou >= FOREGROUND,
        own_iou >= FOREGROUND,
        np.maximum(own_iou, other_iou) < BACKGROUND,
    ]
    kind = np.select(conditions, [CORRECT, IGNORED, LOCALISATION, CLASSIFICATION, DUPLICATE, OUTSIDE], default=BOTH)
    target = np.select(
        [kind == CORRECT, kind == LOCALISATION, kind == CLASSIFICATION], [target, own, other], default=-1
    )
    return Errors(scenes, kind, target)


def match_greedily(scenes: Scenes, pairs: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """The best detection chooses first, each object once.

    Args:
        pairs: P, bool, those that may match.
        preference: P, what a detection chooses by; of equals, it takes the last object, as COCO's evaluation does.

    Returns:
        D, the object of each detection, or -1.
    """
    places = np.flatnonzero(pairs)
    detection, candidate = scenes.pair_detection[places], scenes.pair_object[places]
    order = np.lexsort((-candidate, -preference[places], detection))
    chosen = [-1] * len(scenes.score)
    taken = [False] * len(scenes.crowd)
    for d, g in zip(detection[order].tolist(), candidate[order].tolist(), strict=True):
        if chosen[d] < 0 and not taken[g]:
            chosen[d], taken[g] = g, True
    return np.array(chosen, dtype=np.int64)


def _best(scenes: Scenes, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each detection among the pairs, and with which object; 0 and -1 where there is none."""
    places = np.flatnonzero(pairs)
    places = places[np.lexsort((scenes.pair_object[places], scenes.pair_iou[places]))]
    iou, best = np.zeros(len(scenes.score)), np.full(len(scenes.score), -1)
    iou[scenes.pair_detection[places]] = scenes.pair_iou[places]  # the last of several stays
    best[scenes.pair_detection[places]] = scenes.pair_object[places]
    return iou, best


def repaired_precision(errors: Errors, kinds: Collection[str] = ()) -> float:
    """AP at IoU 0.5, in percent, once errors of the given kinds are repaired.

    A wrong class or place is corrected, which makes the detection right; of two that then match one object the better
    stays. Of the other kinds, false detections are removed, and missed objects are not asked for: a class whose objects
    are all of them missed drops out of the mean, and where none is left there is nothing to lose, 100.

    Args:
        errors: of `find_errors`.
        kinds: of `ERROR_KINDS` and `SUMMARY_KINDS`.
    """
    scenes, kind = errors.scenes, errors.kind
    number = {name: index for index, name in enumerate(DETECTION_KINDS)}
    chosen = np.isin(kind, [number[name] for name in kinds if name in number])
    corrected = chosen & np.isin(kind, (CLASSIFICATION, LOCALISATION))
    right = (kind == CORRECT) | corrected
    label = np.where(corrected, scenes.object_label[errors.target] if len(scenes.crowd) else 0, scenes.label)
    keep = ~right & ~chosen
    claims = np.flatnonzero(right)
    keep[claims[np.unique(errors.target[claims], return_index=True)[1]]] = True
    objects = ~scenes.crowd
    if "missed" in kinds:
        objects = objects & ~errors.missed()
    if "false positives" in kinds:
        keep &= right | (kind == IGNORED)
    if "false negatives" in kinds:
        objects = objects & ~errors.unmatched()
    if not objects.any():
        return 100.0
    matches = _matches(errors, label, right, objects)
    of_kept = {name: getattr(matches, name)[..., keep] for name in ("image", "label", "matched", "ignored")}
    return float(average_precision(replace(matches, **of_kept))[0])


def class_precision(errors: Errors) -> np.ndarray:
    """K, AP at IoU 0.5 of each class in percent; NaN where it has no objects."""
    scenes = errors.scenes
    return precision_by_class(_matches(errors, scenes.label, errors.kind == CORRECT, ~scenes.crowd))[0]


def _matches(errors: Errors, label: np.ndarray, right: np.ndarray, objects: np.ndarray) -> Matches:
    """Detections of these classes at one threshold, D, of which some are right; and those objects, G, that count."""
    scenes = errors.scenes
    return Matches(
        image_ids=scenes.image_ids,
        class_ids=scenes.class_ids,
        image=scenes.image,
        label=label,
        matched=right[None],
        ignored=(errors.kind == IGNORED)[None],
        object_image=scenes.object_image[objects],
        object_label=scenes.object_label[objects],
        object_count=np.ones(objects.sum(), dtype=np.int64),
    )


def lost_precision(errors: Errors) -> tuple[float, dict[str, float]]:
    """AP at IoU 0.5 in percent, and what repairing each kind alone would add."""
    base = repaired_precision(errors)
    return base, {kind: repaired_precision(errors, (kind,)) - base for kind in (*ERROR_KINDS, *SUMMARY_KINDS)}
