"""`cifarkit doctor`: what could spoil a training here."""

from __future__ import annotations

from cifarkit.cli import options
from cifarkit.cli.choices import resolve
from cifarkit.console import Terminal
from cifarkit.errors import CifarkitError

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    dataset: options.Dataset = "cifar10",
    recipe: options.Recipe = None,
    policy: options.Policy = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    gpus: options.Gpus = None,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check environment, data, speed, tracking store and disk. Stdout gets the worst finding:
    ok, warn or fail; exit code 1 if it is fail."""
    from rich.table import Table
    from rich.text import Text

    terminal = Terminal(json=json, quiet=quiet)
    source, chosen = resolve(dataset, recipe, image_size, policy=policy)
    with terminal.busy("loading torch and MLflow"):
        from cifarkit.data.loading import default_data_dir
        from cifarkit.sessions.doctor import examine

    found = examine(
        source,
        chosen,
        data_dir or default_data_dir(),
        terminal,
        tracking_uri=tracking_uri,
        gpus=gpus,
        debug=debug,
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in found.findings:
        status = Text(finding.status, STYLES[finding.status])
        remedy = f"\n-> {finding.remedy}" if finding.remedy else ""
        table.add_row(status, finding.check, finding.detail + remedy)
    terminal.show(table)
    terminal.answer(found, found.worst)
    failed = [finding.check for finding in found.findings if finding.status == "fail"]
    if failed:
        raise CifarkitError(f"not fit to train: {', '.join(failed)}")
