"""Set prediction: scores of queries, matching, losses and results; for any model that predicts objects by queries."""

from .build import build_criterion
from .criterion import BoxLosses, LossTerm, SetCriterion, mean_number_of_objects
from .distribution_losses import DistributionLosses, positive_share
from .matcher import CostTerm, HungarianMatcher, union_of
from .postprocessing import boxes_to_instances, output_sizes
from .scoring import QualityScoring, Scoring, SigmoidScoring, SoftmaxScoring
