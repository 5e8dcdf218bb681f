"""Endless batches for training, whose order and augmentation depend on a seed and a position alone, so that training
goes on where it stopped.
"""

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.utils.data as torchdata
from detectron2.config import CfgNode
from detectron2.data.build import _train_loader_from_config, trivial_batch_collator
from detectron2.utils import comm

from .image_lists import only_classes, shared, sizes_of
from .place import PLACE, Place

# What decides, beside seed and position, which images are in which batch.
_ORDER = ("dataset_size", "batch", "processes")


class TrainLoader:
    """Batches of this process's share of the images of `small_batch`, in the order of ``DATALOADER.SAMPLER_TRAIN``.

    Each image is augmented under a random state that its place in that order decides: neither workers nor what was
    drawn before change it. A batch that was begun in a bucket of ``DATALOADER.ASPECT_RATIO_GROUPING`` is found again,
    since images are grouped before they are read.

    Attributes:
        num_iterations: of the training, for augmentations that end before it does (`PLACE`).

    Args:
        cfg: ``DATALOADER``, ``SOLVER.IMS_PER_BATCH``, ``ACCUMULATE_STEPS`` and ``MAX_ITER`` are read.
        images: dicts in Detectron2's format.
        mapper: makes of a dict what the model takes; where it returns None, another image of the bucket is taken.

    Raises:
        ValueError: the processes cannot share a batch, or an unknown sampler.
    """

    def __init__(self, cfg: CfgNode, images: Sequence[dict[str, Any]], mapper: Callable) -> None:
        batch, processes = small_batch(cfg), comm.get_world_size()
        self._cfg, self._mapper = cfg, mapper
        self.num_iterations = cfg.SOLVER.MAX_ITER
        sizes = sizes_of(images)
        self._bucket_of = ((sizes[:, 0] > sizes[:, 1]) & cfg.DATALOADER.ASPECT_RATIO_GROUPING).astype(np.int8)
        self._images, self._of_sampler = shared(images), only_classes(images)
        self._order = {"dataset_size": len(images), "batch": batch, "processes": processes}
        self.load_state_dict({"seed": comm.shared_random_seed(), "images": 0} | self._order)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Batches from the beginning, or from where the loaded state stopped; `state_dict` counts them."""
        self._given = self._start
        batch = self._order["batch"]
        loader = torchdata.DataLoader(
            _Samples(self._images, self._mapper, self._bucket_of, self._seed, comm.get_rank()),
            batch_sampler=islice(self._batches(), self._start // batch, None),
            num_workers=self._cfg.DATALOADER.NUM_WORKERS,
            collate_fn=trivial_batch_collator,
            generator=torch.Generator(),  # else it draws from the generator of the model
        )
        for samples in loader:
            self._given += batch
            yield samples

    @property
    def num_images(self) -> int:
        """How many images training draws from."""
        return self._order["dataset_size"]

    def state_dict(self) -> dict[str, int]:
        """The seed, how many images all processes were given, and in how many steps."""
        batches = (self._given - self._start) // self._order["batch"]
        steps = self._first_step + batches // self._cfg.SOLVER.ACCUMULATE_STEPS
        return {"seed": self._seed, "images": self._given, "steps": steps} | self._order

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the images of ``state``; warns where the order is another one now."""
        self._seed, self._start = state["seed"], state["images"]
        self._given = self._start
        # Checkpoints of before do not say their steps.
        self._first_step = state.get("steps", state["images"] // state["batch"] // self._cfg.SOLVER.ACCUMULATE_STEPS)
        changed = [f"{key} {state[key]} -> {self._order[key]}" for key in _ORDER if state[key] != self._order[key]]
        if changed:
            logging.getLogger(__name__).warning(
                f"The order of the data is no longer that of the run that is resumed: {', '.join(changed)}."
            )
        with seeded(self._seed):  # Detectron2's samplers draw their own seeds
            self.sampler = _train_loader_from_config(self._cfg, self._mapper, dataset=self._of_sampler)["sampler"]

    def _batches(self) -> Iterator[list[tuple[int, int, int, float]]]:
        """Batches of (position, index of the image, step, progress of the training), from the first image on."""
        buckets: tuple[list, list] = ([], [])
        size, parts = self._order["batch"] // self._order["processes"], self._cfg.SOLVER.ACCUMULATE_STEPS
        # Of a run whose batches became larger or smaller, the steps that were made count.
        number = self._first_step * parts - self._start // self._order["batch"]
        for sample in enumerate(self.sampler):
            bucket = buckets[self._bucket_of[sample[1]]]
            bucket.append(sample)
            if len(bucket) == size:
                step = number // parts
                yield [(*sample, step, step / max(1, self.num_iterations)) for sample in bucket]
                bucket.clear()
                number += 1


def small_batch(cfg: CfgNode) -> int:
    """Images of all processes in one of the ``SOLVER.ACCUMULATE_STEPS`` parts of ``SOLVER.IMS_PER_BATCH``.

    Raises:
        ValueError: it is none, or the processes cannot share it.
    """
    images, parts, processes = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS, comm.get_world_size()
    if parts < 1:
        raise ValueError(f"SOLVER.ACCUMULATE_STEPS is {parts}: it must be at least 1.")
    if images < 1 or images % (processes * parts):
        steps = f" in {parts} parts (SOLVER.ACCUMULATE_STEPS)" if parts > 1 else ""
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {images}, which {processes} processes cannot share evenly{steps}: "
            f"set it to a multiple of {processes * parts}."
        )
    return images // parts


class _Samples(torchdata.Dataset):
    """Mapped images by what `TrainLoader` says of a sample, each under a random state of its own."""

    def __init__(self, images: Sequence, mapper: Callable, bucket_of: np.ndarray, seed: int, rank: int) -> None:
        self.images, self.mapper, self.bucket_of, self.seed, self.rank = images, mapper, bucket_of, seed, rank

    def __getitem__(self, sample: tuple[int, int, int, float]) -> dict[str, Any]:
        position, index, step, progress = sample
        token = PLACE.set(Place(progress, mixed_seed(self.seed, step)))
        try:
            with seeded(self.seed, self.rank, position):
                while (mapped := self.mapper(self.images[index])) is None:
                    index = random.choice(np.flatnonzero(self.bucket_of == self.bucket_of[index]).tolist())
                return mapped
        finally:
            PLACE.reset(token)


def mixed_seed(*key: int) -> int:
    """One seed below 2^32 of several numbers, none negative."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Within it, the generators of Python, numpy and torch's CPU start from ``key``; after it they are as before."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (augmentations draw from it)
    seed = mixed_seed(*key)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
