"""What a training is to do: a recipe, and what else shapes it beside the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from cifarkit.recipes.recipe import Recipe
from cifarkit.untrusted import check_types

MAX_EPOCHS = 1_000_000  # that a record may tell of
PATIENCE = 3  # times the planned epochs that a target is pursued for, where nobody says how long


@dataclass(frozen=True)
class Plan:
    """On one machine's CPU, trainings of equal plans on equal images come to equal weights.

    Attributes:
        target_acc: stop as soon as validation accuracy, a fraction, reaches it.
        max_epochs: while the target is not reached, go on beyond the recipe's epochs, at most so far.
        workers: see `pipeline.train_loader`.
        deterministic: use only algorithms that repeat bit for bit (the CPU path does by itself).
        compile: run what `torch.compile` makes of the network's training steps.
    """

    recipe: Recipe
    seed: int = 0
    target_acc: float | None = None
    max_epochs: int | None = None
    workers: int | None = None
    deterministic: bool = False
    compile: bool = False

    @property
    def ends(self) -> tuple[int, ...]:
        """Epochs after which the training may end: as planned; while a target is not reached, after half as
        many again, up to ``max_epochs``."""
        ends = [self.recipe.epochs]
        if self.target_acc is not None:
            longest = self.max_epochs or ends[0]
            while ends[-1] < longest:
                ends.append(min(longest, math.ceil(ends[-1] * 1.5)))
        return tuple(ends)

    def with_recipe(self, **changes: Any) -> Plan:
        """The plan with fields of its recipe replaced."""
        return replace(self, recipe=replace(self.recipe, **changes))

    def settings(self) -> dict[str, Any]:
        """As a flat dict of names and numbers; what a run and its checkpoints record."""
        own = {name: getattr(self, name) for name in _own_names()}
        return self.recipe.settings() | own

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Plan:
        """The inverse of `settings`, which may have been read from a file (`untrusted.check_plain`).

        Raises:
            KeyError, TypeError, ValueError, UsageError: they are not what `settings` returns.
        """
        flat = dict(settings)
        own = {name: flat.pop(name) for name in _own_names()}
        plan = cls(Recipe.from_settings(flat).override(), **own)
        for record in (plan, plan.recipe, plan.recipe.schedule):
            check_types(record)
        if not (plan.recipe.epochs <= MAX_EPOCHS and 1 <= (plan.max_epochs or 1) <= MAX_EPOCHS):
            raise ValueError("no number of epochs")
        return plan


def _own_names() -> list[str]:
    return [field.name for field in fields(Plan) if field.name != "recipe"]
