"""Class activation maps through the grad-cam library (its only importer)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cifarkit.analysis import METHODS
from cifarkit.errors import UnknownName, UsageError
from cifarkit.models import one_view

GOOD_MAP_SIDE, LEAST_MAP_SIDE = 8, 4
CONSTANT_SPREAD = 1e-6
BATCH = 20
# Layers that put out values of both signs.
SIGNED = (nn.Conv2d, nn.BatchNorm2d)


def map_sides(network: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    """(height, width) of what every layer with a 2-d map puts out, in the order they run; without layers
    that run more than once, whose map is not one map."""
    sides: dict[str, tuple[int, int]] = {}
    runs: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.ndim == 4:
                sides[name] = (output.shape[2], output.shape[3])

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
    try:
        with torch.no_grad(), one_view(network):
            network.eval()(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return {name: side for name, side in sides.items() if runs[name] == 1}


def default_layer(network: nn.Module, sides: dict[str, tuple[int, int]]) -> str:
    """Of layers with these `map_sides` the last whose map is about 8x8: on small images deeper maps of 4x4 or
    1x1 say nothing about where, and earlier ones little about what.

    What a convolution or a batch norm puts out itself is left out where there is anything else: the methods
    expect rectified maps (Selvaraju et al. 2017, arXiv 1610.02391), which those of GELU nearly are. In maps
    of both signs what speaks for a class may cancel out to nothing.

    Raises:
        UsageError: no layer has a map over the image.
    """
    activated = {
        name: side for name, side in sides.items() if not isinstance(network.get_submodule(name), SIGNED)
    }
    longer = {name: max(side) for name, side in (activated or sides).items()}
    useful = {name: side for name, side in longer.items() if side >= LEAST_MAP_SIDE} or longer
    if not useful:
        raise UsageError("no layer of this network has a map over the image")
    # In octaves: 16 is as far from 8 as 4 is.
    distance = {name: abs(np.log2(side / GOOD_MAP_SIDE)) for name, side in useful.items()}
    nearest = min(distance.values())
    return [name for name in distance if distance[name] == nearest][-1]


def find_layer(
    network: nn.Module, images: Tensor, name: str | None
) -> tuple[str, nn.Module, tuple[int, int]]:
    """A layer by name, or the default one: its name, module and map size.

    Raises:
        UnknownName: no such layer.
        UsageError: the layer has no 2-d map, or runs more than once.
    """
    sides = map_sides(network, images)
    modules = dict(network.named_modules())
    if name is None:
        name = default_layer(network, sides)
    elif name not in modules or not name:
        raise UnknownName("layer", name, sides)
    elif name not in sides:
        other = default_layer(network, sides)
        raise UsageError(f"layer {name!r} has no map over the image that is its own; try {other!r}")
    return name, modules[name], sides[name]


def class_maps(
    network: nn.Module, layer: nn.Module, images: Tensor, targets: Sequence[int], method: str = "gradcam"
) -> list[npt.NDArray[np.float32]]:
    """The evidence for one class per image, at the layer's own resolution.

    Args:
        network: in evaluation mode on the device of ``images``.
        layer: a module of the network with output (B, C, h, w).
        images: normalised (B, C, H, W).
        targets: class index per image.
        method: a name in `METHODS`.

    Returns:
        One float32 map (h, w) per image in 0..1; what is NaN or constant stays so and is found by `flaw`.

    Raises:
        UnknownName: no such method.
    """
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps: list[npt.NDArray[np.float32]] = []
    cam_class = getattr(pytorch_grad_cam, METHODS[method])
    # A map is about the image as it is; the activations of its mirror would be mixed into it.
    with (
        one_view(network),
        _not_in_place(network),
        cam_class(model=network, target_layers=[layer]) as cam,
        _copied_on(layer),
    ):
        cam.batch_size = BATCH  # of the methods that perturb
        compute = cam.get_cam_image

        def keep_raw(*args: Any, **kwargs: Any) -> npt.NDArray[np.float32]:
            # The library hands out maps upsampled to the image; how coarse a map is must stay visible.
            raw: npt.NDArray[np.float32] = compute(*args, **kwargs)
            maps.extend(scale(np.maximum(one, 0).astype(np.float32)) for one in raw)
            return raw

        cam.get_cam_image = keep_raw
        # ScoreCAM makes one masked image per image and channel, all at once.
        size = 1 if method == "scorecam" else BATCH
        for start in range(0, len(images), size):
            batch = images[start : start + size].detach().clone(memory_format=torch.channels_last)
            batch.requires_grad_()  # so that a layer with no weights before it has gradients too
            wanted = [ClassifierOutputTarget(target) for target in targets[start : start + size]]
            # Perturbing methods draw tqdm bars, and scaling a NaN map warns; both are said better elsewhere.
            with contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
                cam(input_tensor=batch, targets=wanted)
    return maps


@contextlib.contextmanager
def _not_in_place(network: nn.Module) -> Iterator[None]:
    """An activation that works in place would overwrite the map of the layer before it."""
    changed = [module for module in network.modules() if getattr(module, "inplace", False)]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


@contextlib.contextmanager
def _copied_on(layer: nn.Module) -> Iterator[None]:
    """Hand on a copy of the layer's output: a residual sum in place would overwrite what was noted."""
    handle = layer.register_forward_hook(lambda module, inputs, output: output.clone())
    try:
        yield
    finally:
        handle.remove()


def scale(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """To 0..1 by minimum and maximum; a constant map becomes zeros, NaN stays."""
    if not np.isfinite(raw).all():
        return raw
    spread = float(raw.max() - raw.min())
    if spread <= CONSTANT_SPREAD * max(1.0, float(np.abs(raw).max())):
        return np.zeros_like(raw)
    return np.asarray((raw - raw.min()) / spread, dtype=np.float32)


def flaw(scaled: npt.NDArray[np.float32]) -> str | None:
    """Why a map says nothing: ``"nan"``, ``"constant"``, or None for a good one."""
    if not np.isfinite(scaled).all():
        return "nan"
    return "constant" if float(scaled.max()) == float(scaled.min()) else None
