"""What commands return: frozen records that turn into JSON, know no torch and compute nothing.

Accuracies, confidences and other shares are fractions in 0..1; durations are in seconds and sizes in
bytes, as their names say. ``--json`` prints these records through `to_json`; their fields are the
documented schema.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any


def to_dict(record: Any) -> dict[str, Any]:
    """The record as plain lists and dicts; NaN and infinities become None, which JSON can say."""
    plain: dict[str, Any] = _finite(dataclasses.asdict(record))
    return plain


def to_json(record: Any) -> str:
    return json.dumps(to_dict(record), indent=2)


def short_name(dataset: str) -> str:
    """A data set's name for a title: of a folder only the last part of its path."""
    return dataset.rpartition("/")[2]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


# -- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataPath:
    """`data download`: where the files are."""

    dataset: str
    path: str


@dataclass(frozen=True)
class FileCheck:
    """One file of a data set: ``status`` is ``ok``, ``missing``, ``damaged``, or ``ignored`` for what lies
    in a folder of images and is none by its name, or is in no class folder."""

    path: str
    status: str
    detail: str

    @property
    def bad(self) -> bool:
        return self.status in ("missing", "damaged")


@dataclass(frozen=True)
class VerifyReport:
    """`data verify`: every file re-read."""

    dataset: str
    ok: bool
    files: tuple[FileCheck, ...]


@dataclass(frozen=True)
class SplitStats:
    split: str
    samples: int
    class_counts: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


@dataclass(frozen=True)
class DataStats:
    """`data stats`: image_shape is (C, H, W); mean and std are per channel on the 0..1 scale."""

    dataset: str
    image_shape: tuple[int, int, int]
    splits: tuple[SplitStats, ...]


@dataclass(frozen=True)
class PreviewResult:
    """`data preview`: the figure, and which images of which split it shows."""

    dataset: str
    split: str
    policy: str
    indices: tuple[int, ...]
    figure: str


# -- models and recipes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerRow:
    name: str
    type: str
    parameters: int
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class ModelTable:
    """`summary`: one row per module down to the depth asked for.

    ``flops`` counts multiply and add separately, for one image, forward only.
    """

    model: str
    input_shape: tuple[int, int, int]
    classes: int
    parameters: int
    trainable_parameters: int
    size_bytes: int
    flops: int
    rows: tuple[LayerRow, ...]


@dataclass(frozen=True)
class Evidence:
    """A measurement of a recipe: accuracies of ``runs`` seeds, on which hardware, by which command.

    Attributes:
        device: ``cpu`` or ``cuda``; times compare on the same kind only.
    """

    dataset: str
    accuracy_mean: float
    accuracy_std: float
    runs: int
    epochs: int
    train_seconds: float
    hardware: str
    command: str
    device: str = "cpu"

    def promises(self, target: float) -> bool:
        """Whether most trainings are expected to reach a target accuracy: the mean less the standard
        deviation does."""
        return self.accuracy_mean - self.accuracy_std >= target

    def expected_seconds(self, target: float) -> float:
        """Of training to the target, where one that ends below it is taken to need twice the time."""
        deviations = (target - self.accuracy_mean) / max(self.accuracy_std, 1e-9)
        return self.train_seconds * (1 + (1 + math.erf(deviations / math.sqrt(2))) / 2)


@dataclass(frozen=True)
class RecipeRow:
    name: str
    description: str
    settings: dict[str, Any]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class RecipeTable:
    """`recipes`: every preset with its settings and what was measured."""

    recipes: tuple[RecipeRow, ...]


# -- the machine ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``status`` is ``ok``, ``warn`` or ``fail``."""

    check: str
    status: str
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """`doctor`: every finding, and the status of the worst."""

    worst: str
    findings: tuple[Finding, ...]


# -- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRow:
    """One fit in the store; accuracy and time are None as long as there are none.

    Attributes:
        status: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``.
        reason: why it failed.
        seeds: how many it is of; of several, accuracy and time are the mean of the seeds.
        parent_id: the run of several seeds of which it is one.
        val_acc: the best of all validation images; as long as only samples of them were looked at, the last.
        val_sampled: whether it is of a sample.
        val_split: what it comes from, ``test`` or ``val``; None where the run does not tell.
    """

    run_id: str
    name: str
    status: str
    reason: str | None
    dataset: str | None
    recipe: str | None
    seeds: int
    parent_id: str | None
    val_acc: float | None
    val_sampled: bool
    val_split: str | None
    train_seconds: float | None
    started_milliseconds: int


@dataclass(frozen=True)
class RunTable:
    """`runs list`: the fits of an experiment, the latest first, each followed by those of its seeds."""

    runs: tuple[RunRow, ...]


@dataclass(frozen=True)
class Synced:
    """What became of the entries that a run had left: sent, or left for another time, and why."""

    run_id: str
    sent: int
    left: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class SyncTable:
    """`runs sync`: every run of the folder that had something to send."""

    runs: tuple[Synced, ...]


# -- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochRow:
    """One finished epoch, counted from 1. ``val_split`` says what the validation numbers come from, and
    ``image_side`` at how many pixels a side the network saw images at its end and in validation.
    ``waiting_share`` is that of the steps' time in which the next batch was waited for. ``val_sampled`` says
    that the validation numbers are of a part of the images (see `recipes.Recipe.val_sample`)."""

    epoch: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    val_split: str
    image_side: int
    lr: float
    images_per_second: float
    waiting_share: float
    epoch_seconds: float
    train_seconds: float
    val_sampled: bool = False


def merit(row: EpochRow) -> tuple[bool, float, float]:
    """What makes one epoch better than another: a higher accuracy, or as high a one at a lower loss; of all
    validation images before one of a part of them."""
    return not row.val_sampled, row.val_acc, -row.val_loss


def reaches(row: EpochRow, target_acc: float | None) -> bool:
    """Whether an epoch was seen to reach a target, for which all validation images count."""
    return target_acc is not None and not row.val_sampled and row.val_acc >= target_acc


@dataclass(frozen=True)
class LrCurve:
    """`lr-find`: an exponential range test.

    Attributes:
        lrs: learning rate of each step, ascending.
        losses: training loss of each step, before its update.
        smoothed: exponential average of ``losses`` so far, over about a decade of learning rates.
        rules: what each rule suggests; None where the curve does not support the rule.
        rule: the rule asked for.
        suggestion: the learning rate that rule gives; None where the curve does not support it.
        diverged: the test stopped early because the loss exploded.
    """

    dataset: str
    model: str
    optimizer: str
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    rules: dict[str, float | None]
    rule: str
    suggestion: float | None
    diverged: bool
    figure: str | None = None


@dataclass(frozen=True)
class FitResult:
    """`fit`: what training came to. ``time_to_target_seconds`` counts training and validation time;
    ``epochs`` may exceed ``planned_epochs`` where a target took longer; ``low`` and ``high`` are the 95%
    interval of that accuracy, of the images it was measured on."""

    run_id: str | None
    dataset: str
    model: str
    recipe: str
    seed: int
    device: str
    precision: str
    val_split: str
    planned_epochs: int
    epochs: int
    best_epoch: int
    best_val_acc: float
    best_val_acc_low: float
    best_val_acc_high: float
    last_val_acc: float
    target_acc: float | None
    target_reached: bool | None
    time_to_target_seconds: float | None
    train_seconds: float
    peak_memory_bytes: int
    best_checkpoint: str
    last_checkpoint: str
    rows: tuple[EpochRow, ...]


def read_fit(text: str) -> FitResult:
    """A `FitResult` from its JSON.

    Raises:
        TypeError, ValueError, KeyError: it is none, or of another version.
    """
    content = json.loads(text)
    rows = tuple(EpochRow(**row) for row in content.pop("rows"))
    return FitResult(**content, rows=rows)


@dataclass(frozen=True)
class Spread:
    """Of some measurements: mean, standard deviation of one (0 for a single one), and the 95% confidence
    interval of the mean by Student's t (None for a single one)."""

    mean: float
    std: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class FitRuns:
    """`fit --runs N`: trainings that differ in their seeds only.

    Attributes:
        run_id: of the parent run; it holds the figures, model and weights of the best training.
        accuracy: of the last epochs' validation accuracies.
        train_seconds: of the whole trainings, validation included.
        time_to_target_seconds: of those that reached the target; None where none did.
        targets_reached: how many did; None without a target.
        evidence: the same as a recipe states it.
    """

    run_id: str | None
    date: str
    versions: dict[str, str]
    seeds: tuple[int, ...]
    accuracy: Spread
    train_seconds: Spread
    time_to_target_seconds: Spread | None
    targets_reached: int | None
    best_run_id: str | None
    evidence: Evidence
    fits: tuple[FitResult, ...]


@dataclass(frozen=True)
class BenchRow:
    """One measurement; ``share`` is of the machine's matrix product rate, or, of an overhead, of the time of
    the steps that it adds to."""

    name: str
    value: float
    unit: str
    share: float | None = None


@dataclass(frozen=True)
class BenchResult:
    """`bench`: what was measured, on which machine, with which versions, and where the figure is.

    Attributes:
        target: the training to a target accuracy, where one was asked for.
    """

    date: str
    hardware: str
    versions: dict[str, str]
    dataset: str
    recipe: str
    batch_size: int
    rows: tuple[BenchRow, ...]
    target: FitResult | None
    figure: str


# -- analysis -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassScore:
    """Not a number, and null in JSON, are shares of none: the precision of a class that is never predicted,
    the recall of one without images, the F1 of one that is both."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions with confidence in (lower, upper]."""

    lower: float
    upper: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """`eval`: ``confusion[i][j]`` counts images of class i predicted as class j; ``ece`` is the expected
    calibration error over the 15 equal bins in ``calibration`` (Guo et al. 2017).

    Attributes:
        top1_low, top1_high: Wilson's 95% interval of the accuracy on other images of the same kind.
        test_looks: how often trainings and questions in the experiment have measured on the test split, this
            time included; the more often, the less its best number says. None for other splits and where
            nobody counts.
    """

    run_id: str | None
    dataset: str
    split: str
    model: str
    tta: bool
    samples: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    loss: float
    ece: float
    test_looks: int | None
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class Mistake:
    """A misclassified image; ``index`` is its position in the split as published, or, where cifarkit cuts
    the splits (digits, folders without a test folder), in the whole of them. ``file`` is its path below the
    folder of a folder data set."""

    index: int
    true_class: str
    pred_class: str
    confidence: float
    true_confidence: float
    loss: float
    file: str | None = None


@dataclass(frozen=True)
class Misclassified:
    """`misclassified`: the mistakes after filtering and sorting, and the files that hold them."""

    run_id: str | None
    dataset: str
    split: str
    samples: int
    total_mistakes: int
    shown: int
    figure: str
    csv: str
    json: str
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class CamRow:
    """One explained image; ``flags`` names maps that say nothing: ``predicted: constant``, ``true: nan``."""

    source: str
    true_class: str | None
    pred_class: str
    confidence: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class CamResult:
    """`gradcam`: the figure and what is on it; no data set and split for image files."""

    run_id: str | None
    dataset: str | None
    split: str | None
    method: str
    layer: str
    map_size: tuple[int, int]
    figure: str
    images: tuple[CamRow, ...]
