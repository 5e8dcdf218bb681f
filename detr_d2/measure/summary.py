"""From measurements to the files that people read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..analysis.matches import Matches
from ..analysis.training_log import TrainingLog
from ..files import whole_file
from .accuracy import matches_file
from .bootstrap import Interval, compare_precision
from .comparison import Measurements
from .plots import ACCURACIES, plot_accuracy, plot_curves, to_png
from .report import Comparison, to_csv, to_html, to_markdown
from .store import ResultFile
from .table import build_rows

_MACHINE = ("device", "driver", "cores", "threads", "load_average", "cuda", "cudnn", "matmul_allow_tf32")
_VERSIONS = ("detr_d2", "detectron2", "torch", "torchvision", "numpy", "hotcoco", "pycocotools", "python")


def write_report(measurements: Measurements) -> dict[str, Path]:
    """Write ``comparison.md``, ``.csv`` and ``.html`` and the plots into the output folder; their paths by kind."""
    output = measurements.output
    comparison = summarise(measurements)
    names = {title: f"{title.lower().replace(' ', '_')}.png" for title in comparison.pictures}
    contents = {
        "markdown": ("comparison.md", to_markdown(comparison, names).encode()),
        "csv": ("comparison.csv", to_csv(comparison).encode()),
        "html": ("comparison.html", to_html(comparison).encode()),
    } | {title: (names[title], picture) for title, picture in comparison.pictures.items()}
    for name, content in contents.values():
        with whole_file(output / name) as partial:
            partial.write_bytes(content)
    return {kind: output / name for kind, (name, _) in contents.items()}


def summarise(measurements: Measurements) -> Comparison:
    """The report of what has been measured."""
    results, settings = measurements.results(), measurements.settings
    return Comparison(
        labels=[result["label"] for result in results],
        rows=build_rows(results, settings.batch_sizes),
        facts=_facts(measurements, results),
        intervals=_intervals(measurements) if "accuracy" in settings.parts else {},
        resamples=settings.resamples,
        notes=_notes(results),
        pictures=_pictures(measurements, results),
    )


def _intervals(measurements: Measurements) -> dict[str, tuple[dict, dict]]:
    """Computed once for the same models: all of them have matches of one task, or it is left out for those without."""
    settings = measurements.settings
    file = ResultFile(measurements.output / "intervals.json")
    tables = {}
    for task in ("bbox", "segm"):
        paths = {m.label: matches_file(measurements.folder(m) / "inference", task) for m in measurements.models}
        paths = {label: path for label, path in paths.items() if path.is_file()}
        inputs = {
            "models": {m.label: measurements.hashes(m) for m in measurements.models if m.label in paths},
            "evaluated": {label: path.stat().st_mtime for label, path in paths.items()},
            **{"resamples": settings.resamples, "seed": settings.seed},
        }
        if not paths:
            continue
        saved = file.compute(task, inputs, {}, lambda paths=paths: _compare(paths, settings.resamples, settings.seed))
        tables[task] = (
            {label: Interval(**value) for label, value in saved["single"].items()},
            {(a, b): Interval(**value) for a, b, value in saved["pairs"]},
        )
    return tables


def _compare(paths: dict[str, Path], resamples: int, seed: int) -> dict[str, Any]:
    single, pairs = compare_precision(
        {label: Matches.load(path) for label, path in paths.items()}, resamples=resamples, seed=seed
    )
    return {
        "single": {label: asdict(value) for label, value in single.items()},
        "pairs": [[a, b, asdict(value)] for (a, b), value in pairs.items()],
    }


def _facts(measurements: Measurements, results: list[dict[str, Any]]) -> list[str]:
    settings = measurements.settings
    facts = []
    for result in results:
        facts.append(
            f"{result['label']}: {result['meta_architecture']} on {result['dataset']}, {result['config_file']} (hash "
            f"{result['config_hash']}), weights {result['weights'] or 'random'} (hash {result['weights_hash']})"
        )
    facts.append(
        f"latency and GFLOPs of {settings.images} images spread over the data set; {settings.rounds} rounds, in which "
        f"the models take turns; training in fp32, batch {settings.train_batch_size}, {settings.train_steps} steps a "
        "round"
    )
    seen = []
    for result in results:
        for part, saved in result["parts"].items():
            environment = saved["environment"]
            facts_of = [f"{name} {environment[name]}" for name in _MACHINE if environment.get(name) is not None]
            facts_of += [f"{name} {environment[name]}" for name in _VERSIONS if environment.get(name) is not None]
            if part in ("accuracy", "latency") and environment not in seen:
                seen.append(environment)
                facts.append(f"{', '.join(facts_of)}; commit {environment.get('commit')}")
    return facts


def _notes(results: list[dict[str, Any]]) -> list[str]:
    notes = []
    for result in results:
        parts, label = result["parts"], result["label"]
        unknown = parts.get("flops", {}).get("result", {}).get("unknown")
        if unknown:
            calls = ", ".join(f"{name} ({count:g} calls an image)" for name, count in unknown.items())
            notes.append(f"{label}: GFLOPs lack operators that have no formula here: {calls}")
        for setting, summary in parts.get("latency", {}).get("result", {}).items():
            if summary.get("error"):
                notes.append(f"{label}: {setting} failed: {summary['error']}")
            elif "postprocessing" in summary and not any(summary["postprocessing"]["rounds"]):
                notes.append(f"{label}: {setting}: post-processing is in the model's time; its parts are not known")
    return notes


def _pictures(measurements: Measurements, results: list[dict[str, Any]]) -> dict[str, bytes]:
    latency = ("latency", "batch 1 fp32", "total", "p50")
    figures = {
        "Accuracy against latency": plot_accuracy(results, latency, 1.0, "latency, batch 1, fp32 (ms/image)"),
        "Accuracy against parameters": plot_accuracy(results, ("size", "total"), 1e-6, "parameters (M)"),
        "Training curves": plot_curves(
            {
                metric: {
                    model.label: TrainingLog.read(model.metrics_file).curve(metric, model.cfg.SOLVER.IMS_PER_BATCH)
                    for model in measurements.models
                    if model.metrics_file is not None
                }
                for metric in ACCURACIES
            }
        ),
    }
    return {title: to_png(figure) for title, figure in figures.items() if figure is not None}
