"""Batches that depend on a seed and a position alone."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from detr_d2.data.train_loader import TrainLoader, seeded
from detr_d2.engine import load_config

IMAGES = [{"index": i, "width": 2 if i % 3 else 1, "height": 1 if i % 3 else 2} for i in range(10)]


def draw(image: dict) -> dict | None:
    """A mapper that draws from every generator, and refuses one image."""
    if image["index"] == 4:
        return None
    return image | {"drawn": (random.random(), np.random.rand(), torch.rand(()).item())}  # noqa: NPY002


def loader(workers: int = 0, *, batch: int = 2, group: bool = True) -> TrainLoader:
    cfg = load_config()
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = batch, workers
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = group
    return TrainLoader(cfg, IMAGES, draw)


@pytest.mark.parametrize("group", [True, False])
def test_it_goes_on_where_it_stopped_with_workers_and_without(group):
    whole = loader(group=group)
    state = whole.state_dict()
    batches = list(islice(whole, 30))
    assert all(len({d["width"] for d in batch}) == 1 for batch in batches) == group
    assert 4 not in {d["index"] for batch in batches for d in batch}
    assert len({d["drawn"] for batch in batches for d in batch}) == 60
    assert list(islice(whole, 3)) == batches[:3]  # from the beginning again
    first = loader(2, group=group)
    first.load_state_dict(state)
    assert list(islice(first, 13)) == batches[:13]
    second = loader(1, group=group)
    second.load_state_dict(first.state_dict())
    assert list(islice(second, 17)) == batches[13:]


def test_an_epoch_holds_every_image_once():
    indices = [d["index"] for batch in islice(loader(group=False), 5) for d in batch]
    assert len({*indices, 4}) >= 9


def test_processes_share_the_images(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 3)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append([d for batch in islice(loader(group=False), 5) for d in batch])
    assert all(len(share) == 5 for share in shares)
    assert not {d["drawn"] for d in shares[0]} & {d["drawn"] for d in shares[1]}
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 3, which 2 processes cannot share evenly"):
        loader(batch=3)


def test_seeded_leaves_the_generators_as_they_were():
    def drawn() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    with seeded(0):
        before = drawn(), drawn()
    with seeded(0):
        first = drawn()
        with seeded(1, 2):
            inside = drawn()
        assert (first, drawn()) == before
    assert inside not in before
