"""`cifarkit runs`: what is in the store, and what has not reached it yet."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from cifarkit.cli import options
from cifarkit.console import Terminal, duration, percent
from cifarkit.errors import TrackingError
from cifarkit.results import RunTable, Synced, SyncTable

app = typer.Typer(help="List an experiment's fits; send what is not recorded yet.", no_args_is_help=True)


@app.command("list")
def list_(
    limit: Annotated[int, options.option("--limit", "Show at most this many, the latest first.", min=1)] = 20,
    experiment: options.Experiment = "cifarkit",
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List the fits of an experiment with status and accuracy. Stdout gets their ids.

    A run whose process is gone without having ended it is FAILED from then on.
    """
    from rich.table import Table
    from rich.text import Text

    terminal = Terminal(json=json, quiet=quiet)
    with terminal.busy("asking the store"):
        from cifarkit import tracking

        client = tracking.connect(tracking_uri, create=False)
        runs = tracking.list_fits(client, experiment, limit, tracking.noted_ends())
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in ("run", "began", "status"):
        table.add_column(heading, min_width=8, no_wrap=True)
    table.add_column("name")  # the one that gives way
    table.add_column("accuracy", justify="right", min_width=8, no_wrap=True)
    table.add_column("on", no_wrap=True)
    table.add_column("training", justify="right", min_width=8, no_wrap=True)
    for run in runs:
        accuracy = "" if run.val_acc is None else percent(run.val_acc, about=run.val_sampled)
        took = "" if run.train_seconds is None else duration(run.train_seconds)
        began = datetime.fromtimestamp(run.started_milliseconds / 1000)
        name = Text(("  " if run.parent_id else "") + run.name, no_wrap=True, overflow="ellipsis")
        on = run.val_split or "" if accuracy else ""
        table.add_row(run.run_id[:8], f"{began:%Y-%m-%d %H:%M}", run.status, name, accuracy, on, took)
    if runs:
        terminal.show(table)
    else:
        terminal.say(f"no fit in the experiment {experiment!r} yet")
    if any(run.seeds > 1 for run in runs):
        terminal.say("of several seeds: their mean accuracy in the last epoch, and mean time of training")
    for run in runs:
        if run.reason:  # under the table, where there is room for it
            terminal.say(f"{run.run_id[:8]} failed: {run.reason.splitlines()[0]}")
    terminal.answer(RunTable(tuple(runs)), "\n".join(run.run_id for run in runs))


@app.command("sync")
def sync(json: options.Json = False, quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """Send what runs started in this folder have not been able to record. Stdout gets the ids of those
    that are complete now.

    Each goes to the store that it was meant for; training runs are left alone.
    """
    terminal = Terminal(json=json, quiet=quiet)
    with terminal.busy("looking for what has not been sent"):
        from cifarkit import tracking

        journals = tracking.left_behind()
    done = []
    for journal in journals:
        run_id, sent = journal.header["run_id"], 0
        with terminal.busy(f"sending what is left of run {run_id[:8]}"):
            try:
                sent, problems = tracking.sync(journal)
            except TrackingError as error:
                problems = [str(error)]
        for problem in problems:
            terminal.warn(f"run {run_id[:8]}: {problem}")
        done.append(Synced(run_id, sent, len(journal.pending), tuple(problems)))
    if not journals:
        terminal.say("everything has been sent")
    complete = [each.run_id for each in done if not each.problems]
    terminal.answer(SyncTable(tuple(done)), "\n".join(complete))
    left = [each.run_id[:8] for each in done if each.left]
    if left:
        raise TrackingError(f"not everything could be sent: {', '.join(left)}")
