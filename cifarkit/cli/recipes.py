"""`cifarkit recipes`: the presets and what was measured."""

from __future__ import annotations

from cifarkit.cli import options
from cifarkit.console import Terminal, duration, percent
from cifarkit.recipes import RECIPES
from cifarkit.results import Evidence, RecipeRow, RecipeTable


def recipes(json: options.Json = False, quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """List the recipes with their settings and evidence. Stdout gets their names."""
    from rich.table import Table

    terminal = Terminal(json=json, quiet=quiet)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for recipe in RECIPES.values():
        settings = f"{recipe.model}, {recipe.optimizer}, {recipe.epochs} epochs, batch {recipe.batch_size}"
        by_length = sorted(recipe.evidence, key=lambda evidence: evidence.epochs)
        measured = [_measured(evidence, recipe.epochs) for evidence in by_length]
        lines = (recipe.description, settings, *(measured or ["not yet measured"]))
        table.add_row(recipe.name, "\n".join(lines))
    terminal.show(table)
    rows = (RecipeRow(r.name, r.description, r.settings(), r.evidence) for r in RECIPES.values())
    terminal.answer(RecipeTable(tuple(rows)), "\n".join(RECIPES))


def _measured(evidence: Evidence, epochs: int) -> str:
    shortened = f" after {evidence.epochs:g} epochs" if evidence.epochs != epochs else ""
    spread = f" ± {100 * evidence.accuracy_std:.2f}" if evidence.runs > 1 else ""
    seeds = f"{evidence.runs} seeds" if evidence.runs > 1 else "one seed"
    return (
        f"measured: {evidence.dataset} {percent(evidence.accuracy_mean)}{spread}{shortened} ({seeds}) in "
        f"{duration(evidence.train_seconds)} on {evidence.hardware}"
    )
