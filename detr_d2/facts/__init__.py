"""What the package must know of models and of the classes of datasets, without importing either.

A model class states its facts in its attribute ``facts``; Detectron2's own models' stand in
``modeling/detectron2_models.py``. Nothing else in the package decides by a model's name or class.
"""

from .classes import (
    DATASET_MAPPER_REGISTRY,
    FOLLOW_DATASET,
    class_keys_for,
    class_name,
    class_names_in,
    class_names_of,
    model_class_names,
    num_classes_of,
    reads_segments,
    separate_stuff,
    thing_classes_of,
    unified_class_names,
)
from .models import (
    ModelFacts,
    box_model_of,
    facts_of,
    itself,
    max_objects_of,
    methods,
    model_facts,
    stated_models,
    value_of,
)
