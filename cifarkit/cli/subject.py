"""What `eval`, `misclassified` and `gradcam` share: from ``--run`` or ``--checkpoint`` to a network and
its images, and back into the run."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarkit.console import Terminal
from cifarkit.errors import CheckpointError, TrackingError, UsageError

if TYPE_CHECKING:
    from cifarkit.reports import Folder
    from cifarkit.subjects import Subject
    from cifarkit.training.hardware import Hardware


@contextmanager
def opened(
    terminal: Terminal,
    *,
    run: str | None,
    checkpoint: Path | None,
    experiment: str,
    tracking_uri: str | None,
    data_dir: Path | None,
    split: str | None,
    dataset: str | None,
    output: Path,
    gpus: int | None,
    files: bool = False,
) -> Iterator[tuple[Subject, Folder, Hardware]]:
    """Yields the subject, the folder to report into and the device; on success the folder's content is
    added to the run, where there is one. ``files``: the images will be files, not those of a data set.

    Raises:
        UsageError: both a run and a checkpoint file.
        UnknownName: data set or split.
        CheckpointError: no such file.
    """
    from cifarkit.data.datasets import find_dataset
    from cifarkit.data.loading import check_split, default_data_dir

    if run is not None and checkpoint is not None:
        raise UsageError("--run and --checkpoint (or their variables): choose one")
    if dataset is not None:
        find_dataset(dataset)
    if split is not None:
        check_split(split)
    if checkpoint is not None and not checkpoint.is_file():
        raise CheckpointError(f"no checkpoint at {checkpoint}")
    if checkpoint is not None and not zipfile.is_zipfile(checkpoint):
        raise CheckpointError(f"{checkpoint} is damaged or not a checkpoint")
    found = None
    if checkpoint is None:
        with terminal.busy("looking up the run"):
            from cifarkit import tracking

            client = tracking.connect(tracking_uri, create=False)
            found = tracking.find_run(client, "last" if run is None else run, experiment)
            run_id = found.info.run_id
        if seeds := found.data.tags.get(tracking.RUNS):
            terminal.say(f"run {run_id[:8]} is of {seeds} seeds: asking the best of them")
    with terminal.busy("loading torch"):
        from cifarkit.reports import Folder
        from cifarkit.scratch import scratch
        from cifarkit.subjects import checkpoint_of_run, open_subject
        from cifarkit.training.hardware import choose_hardware

        hardware = choose_hardware(gpus)
    places: dict[str, Any] = {"split": split, "dataset": dataset, "files": files}
    data_dir = data_dir or default_data_dir()
    if checkpoint is not None:
        with terminal.busy("reading the checkpoint and the images"):
            subject = open_subject(checkpoint, data_dir, **places)
        # Most checkpoints have one of three names.
        place = f"{zlib.crc32(os.fsencode(checkpoint.resolve())):08x}"
        yield subject, Folder(output / f"{checkpoint.stem}-{place}"), hardware
        return
    with scratch() as folder, terminal.busy(f"reading run {run_id[:8]} and the images"):
        path = checkpoint_of_run(client, found, Path(folder))
        subject = open_subject(path, data_dir, run_id=run_id, **places)
        if subject.data is not None and subject.data.split == "test":
            subject = replace(
                subject, note_look=partial(tracking.count_look, client, found, subject.data.name)
            )
    out = Folder(output / run_id[:8])
    yield subject, out, hardware
    with terminal.busy(f"adding the results to run {run_id[:8]}"):
        try:
            tracking.add_artifacts(client, run_id, out.written)
        except TrackingError as error:  # the answer itself is there, and in the folder
            terminal.alert(f"the results are in {out.root} only: {error}")
