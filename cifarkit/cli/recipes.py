"""`cifarkit recipes`: the presets and what was measured."""

from __future__ import annotations

from cifarkit.cli import options
from cifarkit.console import Terminal, duration, percent
from cifarkit.recipes import RECIPES
from cifarkit.results import RecipeRow, RecipeTable


def recipes(json: options.Json = False, quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """List the recipes with their settings and evidence. Stdout gets their names."""
    from rich.table import Table

    terminal = Terminal(json=json, quiet=quiet)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "what it is", "model", "optimizer", "epochs", "batch", "measured"):
        table.add_column(column, overflow="fold")
    for recipe in RECIPES.values():
        measured = "\n".join(
            f"{e.dataset} {percent(e.accuracy_mean)} "
            + (f"± {100 * e.accuracy_std:.2f} ({e.runs} seeds), " if e.runs > 1 else "(one seed), ")
            + f"{duration(e.train_seconds)} on {e.hardware}"
            for e in recipe.evidence
        )
        table.add_row(
            recipe.name,
            recipe.description,
            recipe.model,
            recipe.optimizer,
            str(recipe.epochs),
            str(recipe.batch_size),
            measured or "not yet measured",
        )
    terminal.show(table)
    rows = (RecipeRow(r.name, r.description, r.settings(), r.evidence) for r in RECIPES.values())
    terminal.answer(RecipeTable(tuple(rows)), "\n".join(RECIPES))
