"""Random weights that make untrained models behave like trained ones, as far as agreement and speed depend on it."""

import torch
from torch import Tensor, nn

from .workloads import OurWorkload

# Of an untrained panoptic model's queries, those that get into its panoptic map: 17 or 18 of 100.
KEPT_QUERIES = 0.175
# Pairs of a location and a class that an untrained FCOS gives a score worth looking at, in each image.
CANDIDATES = 1000


@torch.no_grad()
def randomize_frozen_norms(model: nn.Module, seed: int) -> None:
    """Move frozen norms away from the identity, so that a lost one shows; activations stay of the order of one."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor, mean: float, spread: float) -> None:
        tensor.copy_(mean + spread * (2 * torch.rand(tensor.shape, generator=generator) - 1))

    for name, module in model.named_modules():
        if type(module).__name__ == "FrozenBatchNorm2d":  # torchvision's or Detectron2's
            # The last norm of a bottleneck is small, so that the sum over blocks does not grow.
            scale = 0.3 if name.endswith("conv3.norm") else 1.0
            fill(module.weight, scale, 0.5 * scale)
            fill(module.running_var, 1.0, 0.5)
            fill(module.bias, 0.0, 0.2)
            fill(module.running_mean, 0.0, 0.2)


@torch.no_grad()
def separate_queries(ours: OurWorkload, sharpness: float = 3.0, std: float = 1.0) -> None:
    """Rescale an untrained DETR so that its queries differ in class, score and box on this batch.

    Fresh weights give every query nearly the same output, and then equal detections would prove little. The decoder
    attends ``sharpness`` times as sharply in queries and in keys, and each output of a head gets mean 0 and standard
    deviation ``std`` over all queries, before softmax and sigmoid.
    """
    model = ours.model.box_model
    for name, parameter in model.transformer.decoder.named_parameters():
        if name.endswith("in_proj_weight"):
            parameter[: 2 * parameter.shape[1]] *= sharpness
    states = model.detect(model.preprocess(ours.inputs)).hidden_states
    *layers, last = model.bbox_embed.layers
    _standardize(model.class_embed, states, std)
    for layer in layers:
        states = layer(states).relu()
    _standardize(last, states, std)


@torch.no_grad()
def spread_samples(ours: OurWorkload) -> None:
    """Draw what Deformable DETR starts at zero: where and how much it samples, and boxes.

    Fresh weights look at the same locations around every query; trained ones spread over some, as these do. Inputs of
    all of these layers are normed, so each output has the given deviation.
    """
    model = ours.model.box_model
    # In locations, and before a softmax or a sigmoid. Boxes move little, or refinement would drive them to the borders.
    spread = {"sampling_offsets": 1.0, "attention_weights": 1.0, "bbox_embed": 0.5}
    for name, parameter in model.named_parameters():
        part = next((part for part in spread if part in name), None)
        is_output = "bbox_embed" not in name or f".layers.{len(model.bbox_embed[0].layers) - 1}." in name
        if part and is_output and parameter.dim() == 2:
            values = torch.randn(parameter.shape)
            parameter.copy_(values * spread[part] / parameter.shape[1] ** 0.5)


@torch.no_grad()
def separate_classes(ours: OurWorkload, std: float = 1.5) -> None:
    """Rescale the last class head of an untrained Deformable DETR, so that its queries differ in class on this batch:
    each logit gets mean 0 and standard deviation ``std`` over all queries.
    """
    model = ours.model
    states = model.detect(model.preprocess(ours.inputs)).hidden.hidden_states[-1]
    _standardize(model.class_embed[len(model.transformer.decoder.layers) - 1], states, std)


@torch.no_grad()
def separate_masks(ours: OurWorkload, sharpness: float = 3.0) -> None:
    """Rescale an untrained mask head so that the masks of its queries differ.

    Queries and keys of the attention maps get mean 0 and standard deviation 1 (queries ``sharpness``), and the maps,
    which hold a sum of 1 each, the weight that the features have.
    """
    model = ours.model
    inputs = model.mask_inputs(model.detect(model.preprocess(ours.inputs)))
    attention = model.bbox_attention
    _standardize(attention.q_linear, inputs.queries, sharpness)
    _standardize(attention.k_linear, inputs.memory, 1.0)
    model.mask_head.lay1.weight[:, model.mask_head.dim :] *= attention.num_heads * inputs.memory.shape[1]


@torch.no_grad()
def keep_queries(ours: OurWorkload, share: float = KEPT_QUERIES) -> None:
    """Scale the class head of a panoptic model so that of its queries about ``share`` enter the panoptic maps."""
    model = ours.model
    logits = model.detect(model.preprocess(ours.inputs)).predictions.pred_logits
    wanted = share * logits.shape[0] * logits.shape[1]
    box_model, threshold = model.box_model, model.object_mask_threshold

    def distance(scale: float) -> float:
        kept = (box_model.scoring.segments(scale * image, threshold)[0] for image in logits)
        return abs(sum(map(len, kept)) - wanted)

    scale = min(torch.logspace(-1, 2, 241).tolist(), key=distance)
    box_model.class_embed.weight *= scale
    box_model.class_embed.bias *= scale


@torch.no_grad()
def spread_scores(ours: OurWorkload) -> None:
    """Rescale the head of an untrained FCOS so that some hundred candidates of each image pass its threshold, as of a
    trained one; fresh weights give none, and post-processing would have nothing to do.
    """
    model, head = ours.model, ours.model.head
    levels = head(model.extract(model.preprocess(ours.inputs)))
    logits = torch.cat([level.logits.flatten() for level in levels])
    quality = torch.cat([level.quality.flatten() for level in levels])
    # Twice the threshold, so that most of these pass also where it is on the product with the quality.
    wanted = torch.tensor(2 * model.postprocessor.score_threshold).logit()
    candidates = min(CANDIDATES * len(ours.inputs), len(logits) // 50)
    for layer, scale, shift in (
        (head.cls_logits, 1 / logits.std(), wanted - logits.topk(candidates).values[-1] / logits.std()),
        (head.quality, 1 / quality.std(), 1 - quality.mean() / quality.std()),
    ):
        layer.weight *= scale
        layer.bias.copy_(layer.bias * scale + shift)


def _standardize(linear: nn.Linear, inputs: Tensor, std: float) -> None:
    """Rescale a layer so that over ``inputs`` each of its outputs has mean 0 and standard deviation ``std``."""
    inputs = inputs.flatten(0, -2)
    linear.weight *= (std / (inputs @ linear.weight.T).std(0))[:, None]
    linear.bias.copy_(-(linear.weight @ inputs.mean(0)))
