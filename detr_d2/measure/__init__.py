"""Measuring: one model beside a reference with the same weights, and models of all families in one table.

``tools/benchmark.py`` and ``tools/compare.py`` are the command lines. Nothing else of the package imports this folder.
"""
