"""The command lines: a module each, whose ``main(argv) -> status`` both ``tools/NAME.py`` and ``detr-d2`` run."""
