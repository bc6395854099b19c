"""A model as the chain of layers that an image passes: what closed forms walk down from the logits."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fl_privacy.attacks.gradient.batch_statistics import Moments
from fl_privacy.attacks.gradient.matching import adversary_copy
from fl_privacy.models.normalise import Normalise
from fl_privacy.weights import moving_statistics

WHY = "A closed form walks down one chain of layers; use an attack that optimises, such as 'grnn', for this model."


@dataclass(frozen=True)
class Layer:
    """One layer of a chain: its path in the model ('' for a function), and the shapes without batch of one image.

    `by_itself`: it divides by the moments of its own input, which `module` holds as if they were running statistics.
    """

    name: str
    module: nn.Module
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    by_itself: bool = False


def layer_chain(
    model: nn.Module, image_shape: tuple[int, int, int], training: bool, moments: Mapping[str, Moments] | None = None
) -> list[Layer]:
    """The layers of `model` in the order in which an image passes them, in float64; reshapings are left out.

    `training` as `Spec.training_mode`. Dropout in eval mode, identities and changes of shape are no layers. `moments`
    of the image at each batch normalisation in training mode, by layer, where they are known.

    Raises:
        ValueError: torch.fx cannot trace the model, it is no single chain, or training changes what a layer does.
    """
    moments = moments or {}
    _check_modes(model, training and not moments)
    _check_masks(model, training)
    twin = adversary_copy(model, training).double().cpu()
    for name, known in moments.items():
        _fix(twin.get_submodule(name), known)
    try:
        traced = fx.GraphModule(twin, _Tracer().trace(twin))
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise ValueError(f"torch.fx cannot read this model as a graph ({error}). {WHY}") from error
    shapes = _Shapes(traced)
    with torch.no_grad():
        shapes.run(torch.full((1, *image_shape), 0.5, dtype=torch.float64))
    nodes = _single_path(traced.graph, shapes.found)
    layers = []
    for before, node in pairwise(nodes):
        module = _module(node, twin)
        if not isinstance(module, (nn.Flatten, nn.Unflatten, nn.Identity, _DropoutNd)):
            name = str(node.target) if node.op == "call_module" else ""
            layers.append(Layer(name, module, shapes.found[before], shapes.found[node], name in moments))
            if name in moments:  # an image is divided by the variance over n, not over n - 1
                positions = math.prod(shapes.found[node][1:])
                module.get_buffer("running_var").mul_((positions - 1) / positions)
    _check_used_once(layers)
    return layers


def _check_modes(model: nn.Module, training: bool) -> None:
    if training and moving_statistics(model):
        raise ValueError(
            "batch normalisation in training mode divides by the private batch's own statistics, so that a layer is no "
            f"known affine map, unless an update comes with its running statistics. {WHY}"
        )


def _check_masks(model: nn.Module, training: bool) -> None:
    if training and any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in model.modules()):
        raise ValueError(f"dropout in training mode has a mask that the adversary does not hold. {WHY}")


def _fix(layer: nn.Module, known: Moments) -> None:
    """Let a batch normalisation divide by these moments."""
    assert isinstance(layer, _BatchNorm)
    layer.running_mean, layer.running_var = known.mean.clone(), known.variance.clone()
    layer.track_running_stats = True
    layer.eval()


def _check_used_once(layers: list[Layer]) -> None:
    names = [layer.name for layer in layers if layer.name and any(True for _ in layer.module.parameters())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"layer {', '.join(twice)} is used twice: its gradient is a sum of two, not one's own. {WHY}")
    owners: dict[int, str] = {}
    for layer in layers:
        for parameter in layer.module.parameters():
            if owners.setdefault(id(parameter), layer.name) != layer.name:
                other = owners[id(parameter)]
                raise ValueError(f"layers {other} and {layer.name} share a weight: its gradient is a sum of two. {WHY}")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalise) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shapes, without batch, of all tensors in it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if isinstance(out, Tensor) and n.op != "get_attr":
            self.found[n] = tuple(out.shape[1:])
        return out


def _single_path(graph: fx.Graph, shapes: dict[fx.Node, tuple[int, ...]]) -> list[fx.Node]:
    """The nodes with tensors, from the images to the logits, each of which feeds the next alone."""
    nodes = [node for node in graph.nodes if node in shapes and node.op != "output"]
    for before, node in pairwise(nodes):
        takers = [user for user in before.users if user in shapes and user.op != "output"]
        if takers != [node] or any(isinstance(a, fx.Node) and a.op == "get_attr" for a in node.all_input_nodes):
            raise ValueError(
                f"'{node.name}' does not take the output of '{before.name}' alone (skip connections, branches and "
                f"weights outside layers are of this kind). {WHY}"
            )
    return nodes


FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    torch.relu: nn.ReLU,
    F.relu: lambda inplace=False: nn.ReLU(),
    torch.sigmoid: nn.Sigmoid,
    F.sigmoid: nn.Sigmoid,
    torch.tanh: nn.Tanh,
    F.tanh: nn.Tanh,
    F.leaky_relu: lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""Functions and methods that do what a module does, with the module made from their arguments after the tensor."""
RESHAPES = {torch.flatten, torch.reshape, "flatten", "view", "reshape", "contiguous"}


def _module(node: fx.Node, model: nn.Module) -> nn.Module:
    if node.op == "call_module":
        return model.get_submodule(str(node.target))
    if node.target in RESHAPES:
        return nn.Flatten()
    if node.target in FUNCTIONS:
        return FUNCTIONS[node.target](*node.args[1:], **node.kwargs)
    if node.target in (operator.getitem,):
        raise ValueError(f"'{node.name}' takes a part of a tensor, which no layer of a chain does. {WHY}")
    return Opaque(str(node.target))


class Opaque(nn.Module):
    """Stands for a function of which nothing is known."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
