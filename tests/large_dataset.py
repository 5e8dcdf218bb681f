"""What a dataset of any size costs: makes one, and measures how long it takes until a loader stands, and its memory.

    python tests/large_dataset.py make 100000 /tmp/large        100,000 images with 15 boxes each, and their empty files
    python tests/large_dataset.py start /tmp/large              time, and memory of ranks and of workers
    python tests/large_dataset.py start /tmp/large --ranks 2 --workers 2

The memory of a process is what it owns (USS) and its part of what it shares with the others (PSS), in MiB.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np

CLASSES, PER_IMAGE, PER_FOLDER = 365, 15, 20_000


def make(images: int, folder: Path) -> None:
    """Write ``train.json``, in compact JSON, and the folder ``images`` of empty files."""
    generator = np.random.default_rng(0)
    names = [f"{i // PER_FOLDER:04}/{i:09}.jpg" for i in range(images)]
    for first in names[::PER_FOLDER]:
        (folder / "images" / first).parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(f"{folder}/images/{name}", os.O_CREAT))
    with open(folder / "train.json", "w") as file:
        listed = (f'{{"id":{i},"file_name":"{name}","width":640,"height":480}}' for i, name in enumerate(names))
        file.write(f'{{"images":[{",".join(listed)}],"annotations":[')
        for start in range(0, images, 10_000):
            count = min(10_000, images - start) * PER_IMAGE
            sizes, starts = generator.integers(4, 200, (count, 2)), generator.integers(0, 27_900, (count, 2)) / 100
            labels = generator.integers(1, CLASSES + 1, count).tolist()
            rows = [
                f'{{"id":{start * PER_IMAGE + i},"image_id":{start + i // PER_IMAGE},"category_id":{label},'
                f'"bbox":[{x},{y},{w},{h}],"area":{w * h},"iscrowd":0}}'
                for i, (label, (x, y), (w, h)) in enumerate(zip(labels, starts.tolist(), sizes.tolist(), strict=True))
            ]
            file.write(("," if start else "") + ",".join(rows))
        categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
        file.write(f'],"categories":{json.dumps(categories)}}}')


def memory() -> str:
    """Of this process."""
    values: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, kb, *_ = line.split()
        values[key] = int(kb) // 1024
    own = values["Private_Clean:"] + values["Private_Dirty:"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"PSS {values['Pss:']:5} USS {own:5} RSS {values['Rss:']:5} peak RSS {peak:5} MiB"


class Mapper:
    """Reads no image, touches every annotation, and says once what the process's memory is."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def __call__(self, record: dict) -> dict:
        self.count += 1
        if self.count == 300:
            print(f"{self.name} worker: {memory()}", flush=True)
        return record


def start(folder: Path, rank: int, workers: int, barrier: multiprocessing.Barrier) -> None:
    """From nothing to the first batches, in one rank."""
    from detr_d2.data import training_images
    from detr_d2.data.train_loader import TrainLoader
    from detr_d2.engine import load_config

    begin = time.perf_counter()
    entry = {"name": "large", "json_file": str(folder / "train.json"), "image_root": str(folder / "images")}
    opts = ["DATASETS.CUSTOM", str([entry]), "DATASETS.TRAIN", "('large',)", "DATALOADER.NUM_WORKERS", str(workers)]
    cfg = load_config("", [*opts, "SOLVER.IMS_PER_BATCH", "16"])
    images = training_images(cfg)
    loader = iter(TrainLoader(cfg, images, Mapper(f"rank {rank}")))
    next(loader)
    taken, before = time.perf_counter() - begin, memory()
    for _ in range(40 * max(1, workers)):
        next(loader)
    barrier.wait()  # what is shared is counted while all are there
    print(f"rank {rank}: {taken:.1f} s to the first batch; {before}; with all there {memory()}", flush=True)
    barrier.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make")
    command.add_argument("images", type=int)
    command.add_argument("folder", type=Path)
    command = commands.add_parser("start")
    command.add_argument("folder", type=Path)
    command.add_argument("--ranks", type=int, default=1)
    command.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    if args.command == "make":
        make(args.images, args.folder)
        return
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(args.ranks)
    ranks = [context.Process(target=start, args=(args.folder, i, args.workers, barrier)) for i in range(args.ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


if __name__ == "__main__":
    main()
