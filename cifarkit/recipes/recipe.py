"""What a recipe is, and how its training goes from epoch to epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cifarkit.augment import policies
from cifarkit.errors import UnknownName, UsageError
from cifarkit.models import check_size
from cifarkit.optim.schedules import Linear, OneCycle, Schedule
from cifarkit.results import Evidence

if TYPE_CHECKING:  # brings numpy, which --help need not wait for
    from cifarkit.data.image_set import ImageSet

PRECISIONS = ("auto", "fp32", "bf16")
MIN_STEPS_PER_EPOCH = 8


@dataclass(frozen=True)
class Recipe:
    """A complete training set-up.

    Attributes:
        model, policy, optimizer: names in MODELS, POLICIES, OPTIMIZERS.
        lr: peak learning rate, or None for the suggestion of a range test (``--lr auto``).
        weight_decay: as `cifarkit.optim.build_optimizer` takes it.
        schedule: the learning rate's course over the training.
        epochs: length of the training.
        batch_size: images per optimiser step, over all devices.
        label_smoothing: share of the target spread evenly over all classes.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware computes it natively.
        image_scale: side of the images that the network sees as a share of their own side; the entries
            divide the training into equal parts. Validation follows, and a checkpoint keeps the side it
            was trained at.
        crop_from: scales of this and more are a window that training cuts out of the images; smaller ones,
            and validation, show whole images made smaller. 1 cuts nothing.
        keep_hardest: share of the training images that an epoch shows: those whose loss was highest when they
            were last seen. The entries divide the epochs into equal parts; the first is 1.
        val_sample: about so many images are enough for a validation before the end; where the target is
            within their reach, all are looked at. None: always all.
    """

    name: str
    description: str
    model: str
    policy: str
    optimizer: str
    lr: float | None
    weight_decay: float
    schedule: Schedule
    epochs: int
    batch_size: int
    label_smoothing: float = 0.0
    precision: str = "auto"
    image_scale: tuple[float, ...] = (1.0,)
    crop_from: float = 1.0
    keep_hardest: tuple[float, ...] = (1.0,)
    val_sample: int | None = None
    evidence: tuple[Evidence, ...] = ()

    def scale_at(self, epoch: float) -> float:
        """The image scale after so many, and parts of, epochs."""
        return _part(self.image_scale, epoch / self.epochs)

    def kept_in(self, epoch: int) -> float:
        """The share of the training images that an epoch, counted from 0, shows."""
        return _part(self.keep_hardest, epoch / self.epochs)

    def val_stride(self, images: int) -> int:
        """One of how many images belongs to the sample of a validation before the end."""
        return 1 if self.val_sample is None else max(1, images // self.val_sample)

    def work(
        self,
        begin: float,
        end: float,
        *,
        side: int,
        cost: Callable[[int], float],
        validation: float = 0.0,
        early_validation: float | None = None,
        ends: Collection[int] = (),
    ) -> float:
        """What it takes to train from one point to another, both counted in epochs; in the unit of ``cost``.

        Args:
            side: of the images at full size, in pixels.
            cost: of showing all images once, by their side in pixels.
            validation: what a validation costs, as a share of that; there is one after every epoch, at the
                size that training has come to.
            early_validation: likewise, of one after another epoch than ``ends``; None: of them all.
        """

        def cost_at(epoch: float) -> float:
            return cost(scaled_side(side, self.scale_at(epoch)))

        parts = len(self.image_scale)
        changes = [part * self.epochs / parts for part in range(parts)]
        whole = range(math.floor(begin) + 1, math.floor(end) + 1)
        within = [change for change in changes if begin < change < end]
        points: list[float] = sorted({begin, end, *whole, *within})
        trained = sum(
            self.kept_in(int(left)) * cost_at(left) * (right - left) for left, right in pairwise(points)
        )
        # Changes lie at multiples of 1 / parts: none is so close before an epoch's end.
        early = validation if early_validation is None else early_validation
        validated = sum(
            (validation if epoch in ends else early) * cost_at(epoch - 1 / (2 * parts)) for epoch in whole
        )
        return trained + validated

    def settings(self) -> dict[str, Any]:
        """The resolved settings as a flat dict of names and numbers; what a run records."""
        flat: dict[str, Any] = {"recipe": self.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("name", "description", "evidence"):
                continue
            if field.name == "schedule":
                flat["schedule"] = type(value).__name__
                flat |= {f"schedule.{key}": item for key, item in dataclasses.asdict(value).items()}
            else:
                flat[field.name] = list(value) if isinstance(value, tuple) else value
        return flat

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Recipe:
        """The inverse of `settings`, for resuming a run."""
        flat = dict(settings)
        schedule_type = {"OneCycle": OneCycle, "Linear": Linear}[flat.pop("schedule")]
        arguments = {key: flat.pop(key) for key in list(flat) if key.startswith("schedule.")}
        schedule = schedule_type(**{key.removeprefix("schedule."): item for key, item in arguments.items()})
        for name in ("image_scale", "keep_hardest"):
            flat[name] = tuple(flat[name])
        return cls(name=flat.pop("recipe"), description="", schedule=schedule, **flat)

    def override(self, **changes: Any) -> Recipe:
        """A copy with the given fields replaced; values of None leave the field as it is.

        Raises:
            UsageError: a value that no training can use.
        """
        recipe = dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})
        if recipe.epochs < 1:
            raise UsageError(f"epochs must be at least 1, not {recipe.epochs}")
        if recipe.batch_size < 2:
            raise UsageError(f"batch size must be at least 2, for batch norm, not {recipe.batch_size}")
        if recipe.lr is not None and not 0 < recipe.lr < float("inf"):
            raise UsageError(f"the learning rate must be a positive number, not {recipe.lr}")
        if recipe.precision not in PRECISIONS:
            raise UnknownName("precision", recipe.precision, PRECISIONS)
        return recipe

    def with_batch_for(self, images: int) -> Recipe:
        """The recipe with a batch small enough for a few steps per epoch, where its own would be too large
        for so many images; ask for a batch size to have exactly that one."""
        if images >= MIN_STEPS_PER_EPOCH * self.batch_size:
            return self
        return dataclasses.replace(self, batch_size=max(2, images // MIN_STEPS_PER_EPOCH))

    def fitted(self, images: ImageSet, *, own_batch_size: bool) -> Recipe:
        """The recipe for these training images: `with_batch_for` them where nobody asked for a batch size.

        Raises:
            UsageError: as `check_fits`.
        """
        fitted = self if own_batch_size else self.with_batch_for(len(images))
        fitted.check_fits(images)
        return fitted

    def check_fits(self, images: ImageSet) -> None:
        """That every epoch has a batch of training images, that they are square, that the policy has room in
        them, and that the network takes them at their size and at the smallest that training shrinks them to.

        Raises:
            UsageError: it does not.
        """
        images.check_batch(self.batch_size, min(self.keep_hardest))
        channels, side, width = images.image_shape
        if side != width:
            raise UsageError(
                f"images of {images.name} are {side} x {width} pixels; only square ones can be used"
            )
        policies.check_size(policies.find_policy(self.policy), side, side)
        smallest = scaled_side(side, min(self.image_scale))
        check_size(self.model, (channels, smallest, smallest))

    def measured(self, dataset: str, target: float) -> Evidence | None:
        """The shortest measured training on this data set that promises a target accuracy. Where none does,
        the one that came closest; None where nothing was measured."""
        known = [evidence for evidence in self.evidence if evidence.dataset == dataset]
        enough = [each for each in known if each.promises(target)]
        if enough:
            return min(enough, key=lambda each: each.epochs)
        return max(known, key=lambda each: each.accuracy_mean, default=None)


def _part(parts: Sequence[float], done: float) -> float:
    """The one of equal parts that a training is in, of which a share ``done`` is behind it."""
    # Rounded, so that an epoch that begins a part is not put before it by the last bit of a quotient.
    return parts[min(int(round(done * len(parts), 6)), len(parts) - 1)]


def scaled_side(side: int, share: float) -> int:
    """A share of an image side in whole pixels: at least 8, or the side itself where that is smaller."""
    return min(side, max(8, round(side * share)))
