"""All problems of a dataset by the rules of `detr_d2.data.checks`, each with file and id, and its summary."""

from .report import DatasetReport, report_dataset
