"""The classification architectures of torchvision with random weights, written by either PyTorch exporter."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

EXPORTERS = ("legacy", "dynamo")
# Smaller images are quicker. These have a position embedding or window of fixed size, or a pool that the older exporter
# writes only where sizes divide.
NATIVE_SIZES = {"vit_": 224, "swin": 224, "maxvit": 224, "vgg": 224, "alexnet": 224}
SIZE = 96

# Operators stay declared as long as their library lives.
DECLARATIONS: list[torch.library.Library] = []


def import_models() -> Any:
    """Return `torchvision.models`.

    The wheels on the package index are built for CUDA; beside a CPU build of PyTorch their compiled operators don't
    load, and torchvision fails to register shapes for them. The models need none of them, so declarations do.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARATIONS.append(library)
        for name in [item for item in sys.modules if item.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    return torchvision.models


def list_architectures() -> list[str]:
    """Return the names of all classification architectures."""
    models = import_models()
    return list(models.list_models(module=models))


def choose_size(name: str) -> int:
    """Return the side of the images that an architecture is tried with."""
    return next((size for key, size in NATIVE_SIZES.items() if name.startswith(key)), SIZE)


def build_network(name: str, size: int) -> torch.nn.Module:
    """Return a network with random weights and plausible, uneven statistics."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = import_models().get_model(name, weights=None, **options)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = None  # averages exactly
        for key, parameter in network.named_parameters():
            if "layer_scale" in key:
                parameter.uniform_(0.2, 0.6)  # at its first value, 1e-6, the MLPs of ConvNeXt would do nothing
            elif not parameter.any():
                parameter.normal_(0, 0.05)  # biases, and the heads of vision transformers
        if norms:
            network.eval()
            for norm in norms:
                norm.train()
            network(torch.randn(4, 3, size, size))
            for norm in norms:
                norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    return network.eval()


def export_network(network: torch.nn.Module, size: int, exporter: str, path: Path) -> None:
    """Write a network as ONNX with a dynamic batch."""
    example = torch.randn(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(
                network, (example,), dynamo=True, input_names=["input"], dynamic_shapes=shapes, verbose=False
            )
            assert program is not None
            program.save(path, external_data=True)
        else:
            torch.onnx.export(
                network,
                (example,),
                str(path),  # it takes no other kind of path where weights need files of their own
                dynamo=False,
                opset_version=17,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            )


def count_parameters(name: str) -> float:
    """Return an architecture's size in millions of parameters."""
    weights = import_models().get_model_weights(name)
    return float(next(iter(weights)).meta["num_params"]) / 1e6
