"""One set of rules that a dataset must keep for a model. The loaders raise what breaks one before training starts;
`detr_d2.data.dataset_report` lists everything that does.
"""

from .loading import (
    check_dataset_dicts,
    check_dataset_name,
    check_same_classes,
    check_test_classes,
    check_weights_classes,
    readable_annotations,
)
from .problems import ERROR, Demands, Problem, Problems
