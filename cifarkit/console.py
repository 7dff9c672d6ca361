"""The terminal: all that is said on stderr, and the one line or JSON object on stdout.

A terminal gets live progress; a pipe, a log file or ``NO_COLOR`` gets plain lines. rich is imported where
it is first needed, so that ``--help`` need not wait for it.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import TYPE_CHECKING, Any

from cifarkit.results import EpochRow, merit, to_json

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live


# Letters in a line off a terminal.
NO_END = 10_000
# What a terminal echoes of Ctrl-C would move the rest of a full line, and what is redrawn, to the next.
ECHO = len("^C")
WAITING_TOO_LONG = 0.3
# Off a terminal, so long nothing is said of something that takes long.
SILENT_SECONDS = 30
# So long steps are watched before the time of a training is told.
ESTIMATE_SECONDS = 2


class Terminal:
    """Speaks on stderr unless ``quiet``; answers on stdout.

    Args:
        json: answer with the whole record as JSON instead of one line.
        quiet: say nothing but errors.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        from rich.console import Console

        self.json, self.quiet = json, quiet
        # NO_COLOR asks for no control codes at all here: a log file is the usual reason to set it.
        capable = os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        self.live = sys.stderr.isatty() and capable and not quiet
        self.console = Console(
            stderr=True,
            quiet=quiet,
            highlight=False,
            markup=False,  # names of runs and classes are not ours
            emoji=False,
            force_terminal=self.live,
            width=None if sys.stderr.isatty() else NO_END,
        )

    @classmethod
    def unseen(cls) -> Terminal:
        """A live terminal that draws everything and shows it to nobody: to measure what drawing costs."""
        from rich.console import Console

        terminal = cls()
        terminal.live, terminal.console = True, Console(file=io.StringIO(), force_terminal=True)
        return terminal

    def say(self, text: str) -> None:
        self.console.print(text)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow" if self.live else "")

    def alert(self, text: str) -> None:
        """A warning that must be heard even when quiet: something asked for is missing."""
        if self.quiet:
            print(f"warning: {text}", file=sys.stderr)
        else:
            self.warn(text)

    def show(self, renderable: Any) -> None:
        """A table or other rich object."""
        self.console.print(renderable)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """A spinner while something takes a while; off a terminal one line."""
        if not self.live:
            self.say(f"{text} ...")
            yield
            return
        from rich.text import Text

        with self.console.status(Text(text)):
            yield

    @contextmanager
    def progress(self, text: str, unit: str = "") -> Iterator[Any]:
        """Yields ``update(done, total)``, the total None where it is unknown; a bar on a terminal, elsewhere
        a line now and then."""
        if not self.live:
            self.say(f"{text} ...")
            said = time.perf_counter()

            def update(done: int, total: int | None) -> None:
                nonlocal said
                if time.perf_counter() - said >= SILENT_SECONDS:
                    said = time.perf_counter()
                    self.say(f"{text}: {done:,}" + (f" of {total:,}" if total else "") + f" {unit}".rstrip())

            yield update
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(text, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def answer(self, record: Any, line: str) -> None:
        """The command's result on stdout: the record as JSON, or its one line."""
        text = to_json(record) if self.json else line
        if text:  # a list may have nothing in it
            print(text, flush=True)


def percent(share: float, *, about: bool = False) -> str:
    """``91.23%``; of a sample only ``~91.2%``; of nothing ``–``."""
    if math.isnan(share):
        return "–"
    return f"~{100 * share:.1f}%" if about else f"{100 * share:.2f}%"


def plural(count: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """``1.53`` as ``1.5 s``, ``75`` as ``1:15``, ``3700`` as ``1:01:40``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class EpochTable:
    """A live table of epochs with a progress bar below; an `Observer` of training.

    Off a terminal every epoch is one plain line.

    Args:
        work: how much it is, in any unit, to train from one point to another, both counted in epochs; from
            it and the time that a part took follows the time left.
        ends: epochs after which the training may end: the last, or an earlier one at the target.
        batch_size: images per step, over all devices.
        workers: whether processes load the images, for which a training may have to wait.
        val_split: what the validation numbers come from.
        target_acc: see `recipes.Plan`.
        earlier: epochs that a resumed run has behind it.

    Attributes:
        stopped: what was done of the epoch within which the training stopped, as the rest of a sentence.
    """

    def __init__(
        self,
        terminal: Terminal,
        work: Callable[[float, float], float],
        ends: Sequence[int],
        *,
        val_split: str,
        batch_size: int,
        workers: bool = False,
        target_acc: float | None = None,
        earlier: Sequence[EpochRow] = (),
    ) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.terminal, self.work, self.ends = terminal, work, ends
        self.batch_size, self.workers = batch_size, workers
        self.val_split, self.target_acc = val_split, target_acc
        self.rows: list[EpochRow] = list(earlier)
        self.first_report: tuple[int, int, float] | None = None
        self.estimated = self.waited = self.headed = False
        self.stopped = ""
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
        )
        self.task = self.bar.add_task("starting", total=1, note="")
        self._live: Live | None = None

    def __enter__(self) -> EpochTable:
        if self.terminal.live:
            from rich.live import Live

            self._live = Live(self._render(), console=self.terminal.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self.bar.remove_task(self.task)
            self._live.update(self._render(everything=True))
            self._live.stop()

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        left = (steps - step) * self.batch_size / images_per_second
        if not self.estimated and step < steps:  # the last step's work would include the coming validation
            self._estimate(epoch, step, steps)
        self.bar.update(
            self.task,
            description=f"epoch {epoch}/{self._end(epoch)}",
            completed=step,
            total=steps,
            note=f"step {step}/{steps}  {images_per_second:,.0f} images/s  {duration(left)} left in epoch",
        )

    def _estimate(self, epoch: int, step: int, steps: int) -> None:
        """From between two reports of an epoch, because the first steps of all are slower."""
        now = time.perf_counter()
        if self.first_report is None:
            self.first_report = epoch, step, now
        first_epoch, begin, began = self.first_report
        if epoch != first_epoch or now - began < ESTIMATE_SECONDS:
            return
        self.estimated = True
        pace = (now - began) / self.work(epoch - 1 + begin / steps, epoch - 1 + step / steps)
        coming = pace * self.work(epoch - 1, self._end(epoch))
        self.terminal.say(f"about {duration(coming)} of training on this machine")

    def on_validation(self, epoch: int) -> None:
        self.bar.update(self.task, description=f"epoch {epoch}/{self._end(epoch)}", note="validating")

    def on_stop(self, epoch: int, step: int, steps: int) -> None:
        self.stopped = f" and {step} of the {steps} steps of the next"

    def on_epoch(self, row: EpochRow, best: bool) -> None:
        self.rows.append(row)
        self.estimated = True  # the row says what is left
        if self._live:
            self._live.update(self._render())
        else:
            if not self.headed:
                self.headed = True
                self.terminal.say(
                    "epoch   train loss  train acc "
                    f"{f'{self.val_split} loss':>10} {f'{self.val_split} acc':>9}"
                    "         lr  images/s   time  left"
                )
            self.terminal.say(self._line(row, best))
        if self.workers and row.waiting_share > WAITING_TOO_LONG and not self.waited:
            self.waited = True
            self.terminal.warn(
                f"{row.waiting_share:.0%} of the time the model waited for images; raise --workers, or leave "
                "it out so that data that fits stays on the device"
            )
        if self.target_acc and self._goes_on(row):
            self.terminal.say(
                f"{percent(self.target_acc)} is not reached: going on to epoch {self._end(row.epoch + 1)} "
                "with these weights"
            )

    def _end(self, epoch: int) -> int:
        """Where the training will end that is in ``epoch`` now, as far as one knows."""
        return next((end for end in self.ends if end >= epoch), self.ends[-1])

    def _goes_on(self, row: EpochRow) -> bool:
        """Whether a training goes on that could have ended with this epoch."""
        return row.epoch in self.ends[:-1] and row.val_acc < (self.target_acc or 0)

    def _left(self, row: EpochRow) -> float:
        """Seconds to the last epoch if the coming ones take the time of this one for the same work."""
        pace = row.epoch_seconds / self.work(row.epoch - 1, row.epoch)
        return pace * self.work(row.epoch, self._end(row.epoch + self._goes_on(row)))

    def _line(self, row: EpochRow, best: bool) -> str:
        val_acc = percent(row.val_acc, about=row.val_sampled)
        return (
            f"{row.epoch:>5}   {row.train_loss:>10.4f}  {percent(row.train_acc):>9} {row.val_loss:>10.4f} "
            f"{val_acc:>9} {row.lr:>10.2e} {row.images_per_second:>9,.0f} "
            f"{duration(row.epoch_seconds):>6} {duration(self._left(row)):>5}" + (" *" if best else "")
        )

    def _render(self, everything: bool = False) -> Group:
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.table import Table

        split, width = self.val_split, self.terminal.console.width
        # Name and least width of the screen.
        columns = {
            "epoch": 0, "train loss": 62, "train acc": 50, f"{split} loss": 62, f"{split} acc": 0,
            "lr": 80, "images/s": 80, "time": 0, "left": 0,
        }  # fmt: skip
        shown = [width >= least for least in columns.values()]
        table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
        for name in compress(columns, shown):
            table.add_column(name, justify="right")
        best = max(self.rows, key=merit, default=None)
        # What does not fit on the screen would push the bar below its edge.
        rows = self.rows if everything else self.rows[-max(1, self.terminal.console.height - 4) :]
        for row in rows:
            mark = row is best
            cells = (
                f"{'★ ' * mark}{row.epoch}",
                f"{row.train_loss:.4f}",
                percent(row.train_acc),
                f"{row.val_loss:.4f}",
                percent(row.val_acc, about=row.val_sampled),
                f"{row.lr:.2e}",
                f"{row.images_per_second:,.0f}",
                duration(row.epoch_seconds),
                duration(self._left(row)),
            )
            table.add_row(*compress(cells, shown), style="bold green" if mark else "")
        return Group(table, Constrain(self.bar, width - ECHO)) if self.bar.tasks else Group(table)
