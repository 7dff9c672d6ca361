from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from cifarkit import figures
from cifarkit.errors import CifarkitError
from cifarkit.figures.canvas import PALE
from cifarkit.intervals import spread
from cifarkit.results import (
    BenchRow,
    CalibrationBin,
    CamRow,
    ClassScore,
    EpochRow,
    Evaluation,
    Evidence,
    FitResult,
    FitRuns,
    LrCurve,
    Mistake,
)

NAN = float("nan")
SHEETS = ("image_grid", "preview", "stages", "misclassified", "cam_grid")
ODD_NAMES = ("a_class_name_that_never_ends", "猫と犬", "$x^2$", "_private", "", "two\nlines", "\udcff", "🦊")


def pixels(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)


def flat(count: int) -> np.ndarray:
    """Images of one colour each, which no lettering has."""
    images = np.full((count, 8, 8, 3), (200, 0, 50), dtype=np.uint8)
    images[..., 1] += np.arange(0, 5 * count, 5, dtype=np.uint8).reshape(-1, 1, 1)
    return images


def epoch_rows(count: int) -> list[EpochRow]:
    accs = [0.5 + 0.4 * (1 - abs(epoch - 3) / 10) for epoch in range(1, count + 1)]
    return [
        EpochRow(
            epoch, 2 / epoch, acc - 0.05, 1.8 / epoch, acc, "val", 32, 0.1, 1000.0, 0.1, 1.0, 1.0 * epoch
        )
        for epoch, acc in enumerate(accs, start=1)
    ]


def fits(count: int, target_acc: float | None = None) -> FitRuns:
    one = FitResult(
        run_id=None,
        dataset="folder:/photos/digits",
        model="tiny",
        recipe="digits",
        seed=0,
        device="cpu",
        precision="fp32",
        val_split="val",
        planned_epochs=8,
        epochs=8,
        best_epoch=3,
        best_val_acc=0.9,
        best_val_acc_low=0.88,
        best_val_acc_high=0.92,
        last_val_acc=0.7,
        target_acc=target_acc,
        target_reached=None,
        time_to_target_seconds=None,
        train_seconds=8.0,
        peak_memory_bytes=1,
        best_checkpoint="",
        last_checkpoint="",
        rows=tuple(epoch_rows(8)),
    )
    ends = [0.7 + 0.01 * (seed % 3) for seed in range(count)]
    return FitRuns(
        run_id=None,
        date="2026-11-28",
        versions={},
        seeds=tuple(range(count)),
        accuracy=spread(ends, most=1.0),
        train_seconds=spread([8.0] * count),
        time_to_target_seconds=None,
        targets_reached=None,
        best_run_id=None,
        evidence=Evidence("digits", 0.7, 0.0, count, 8, 8.0, "here", "cifarkit fit"),
        fits=tuple(replace(one, seed=seed, last_val_acc=end) for seed, end in enumerate(ends)),
    )


def lr_curve(**changes: object) -> LrCurve:
    lrs = np.geomspace(1e-5, 10, 60)
    smoothed = 2.3 - 1 / (1 + np.exp(-3 * (np.log10(lrs) + 2))) + (lrs / 2) ** 4
    curve = LrCurve(
        dataset="digits",
        model="tiny",
        optimizer="adamw",
        lrs=tuple(lrs),
        losses=tuple(smoothed + np.random.default_rng(0).normal(0, 0.05, 60)),
        smoothed=tuple(smoothed),
        rules={"steepest": 0.01, "minimum/10": 0.03, "valley": None},
        rule="steepest",
        suggestion=0.01,
        diverged=True,
    )
    return replace(curve, **changes)


def evaluation(names: tuple[str, ...]) -> Evaluation:
    classes = len(names)
    confusion = np.random.default_rng(0).integers(0, 5, (classes, classes)) + 80 * np.eye(classes, dtype=int)
    return Evaluation(
        run_id=None,
        dataset="digits",
        split="test",
        model="tiny",
        tta=False,
        samples=int(confusion.sum()),
        top1=0.8765,
        top1_low=0.86,
        top1_high=0.89,
        top5=0.99,
        loss=0.4,
        ece=0.0321,
        test_looks=None,
        per_class=tuple(ClassScore(name, 90, 0.9, 0.8, 0.5 + i / 300) for i, name in enumerate(names)),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        calibration=tuple(
            CalibrationBin(i / 15, (i + 1) / 15, 0 if i < 3 else 10 ** (i // 4), (i + 0.5) / 15, i / 15)
            for i in range(15)
        ),
    )


def mistakes(count: int) -> list[Mistake]:
    return [Mistake(1000 + i, "dog", "cat", 0.934, 0.051, 2.9) for i in range(count)]


def cams(
    count: int, channels: int = 3, size: tuple[int, int] = (4, 4), images: np.ndarray | None = None
) -> Figure:
    cam = np.linspace(0, 1, size[0] * size[1]).reshape(size)
    panels = [[("cat 93%", cam), ("dog 5%", None if i == 0 else cam)] for i in range(count)]
    rows = [
        CamRow(f"test[{i}]", "dog", "cat", 0.93, ("true: constant",) if i == 0 else ()) for i in range(count)
    ]
    originals = pixels(count, channels) if images is None else images
    return figures.cam_grid(originals, panels, rows, "digits test")


def digits_like(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))


FIGURES: dict[str, Callable[[], Figure]] = {
    "image_grid": lambda: figures.image_grid(pixels(12), digits_like(12), suptitle="digits train"),
    "image_grid gray": lambda: figures.image_grid(pixels(3, 1), digits_like(3), columns=2),
    "image_grid one": lambda: figures.image_grid(
        pixels(1), ["cat"], suptitle="a title wider than one image " * 3
    ),
    "image_grid none": lambda: figures.image_grid(pixels(0), []),
    "image_grid odd": lambda: figures.image_grid(pixels(10), ODD_NAMES, suptitle=" ".join(ODD_NAMES)),
    "preview": lambda: figures.preview(
        pixels(4), [pixels(4) / 255, pixels(4).astype(np.float32) / 200], digits_like(4), "digits train"
    ),
    "preview one": lambda: figures.preview(pixels(1, 1), [], [], ""),
    "stages": lambda: figures.stages(
        [("raw", pixels(3)), ("Perspective(scale=0.2, p=0.5, fill=0.0)", pixels(3) / 255)],
        digits_like(3),
        "t",
    ),
    "stages none": lambda: figures.stages([], [], "t"),
    "stages odd": lambda: figures.stages([(name, pixels(1)) for name in ODD_NAMES], ODD_NAMES, "t"),
    "lr_range_test": lambda: figures.lr_range_test(lr_curve()),
    "lr_range_test nan loss": lambda: figures.lr_range_test(
        lr_curve(losses=(*lr_curve().losses[:-1], NAN), smoothed=(NAN,) * 60)
    ),
    "lr_range_test no loss": lambda: figures.lr_range_test(
        lr_curve(losses=(NAN,) * 60, smoothed=(NAN,) * 60)
    ),
    "lr_range_test one": lambda: figures.lr_range_test(
        lr_curve(lrs=(0.1,), losses=(2.0,), smoothed=(2.0,), rules={"steepest": None}, suggestion=NAN)
    ),
    "lr_range_test empty": lambda: figures.lr_range_test(lr_curve(lrs=(), losses=(), smoothed=(), rules={})),
    "bench_bars": lambda: figures.bench_bars(
        [
            BenchRow("matrix product", 100.0, "GFLOP/s"),
            BenchRow("loader, 2 workers", 9000.0, "images/s"),
            BenchRow("step at 32 pixels", 500.0, "images/s", 0.7),
        ]
    ),
    "bench_bars none": lambda: figures.bench_bars([]),
    "lr_schedule": lambda: figures.lr_schedule([0.1, 0.2, 0.0], [0, 0.5, 1], "cosine"),
    "lr_schedule groups": lambda: figures.lr_schedule({"_head": [0.1, 0.2], "猫": [0.1, 0.1]}, [0, 1]),
    "lr_schedule one": lambda: figures.lr_schedule([0.1], [0]),
    "lr_schedule none": lambda: figures.lr_schedule([], []),
    "training_curves": lambda: figures.training_curves(epoch_rows(8), 0.94, "digits"),
    "training_curves sampled": lambda: figures.training_curves(
        [replace(row, val_sampled=True) for row in epoch_rows(40)], 0.94
    ),
    "training_curves one": lambda: figures.training_curves(epoch_rows(1), None),
    "training_curves none": lambda: figures.training_curves([], 0.9),
    "training_curves nan": lambda: figures.training_curves(
        [replace(row, val_loss=NAN, val_acc=NAN, train_loss=float("inf")) for row in epoch_rows(3)], 0.9
    ),
    "seeds": lambda: figures.seeds(fits(5, 0.705)),
    "seeds one": lambda: figures.seeds(fits(1)),
    "seeds 30": lambda: figures.seeds(fits(30, 0.94)),
    "confusion_matrix": lambda: figures.confusion_matrix(evaluation(digits_like(10))),
    "confusion_matrix 100": lambda: figures.confusion_matrix(evaluation(digits_like(100))),
    "confusion_matrix odd": lambda: figures.confusion_matrix(evaluation(ODD_NAMES)),
    "confusion_matrix one": lambda: figures.confusion_matrix(evaluation(("cat",))),
    "confusion_matrix none": lambda: figures.confusion_matrix(evaluation(())),
    "calibration": lambda: figures.calibration(evaluation(digits_like(10))),
    "calibration none": lambda: figures.calibration(
        replace(
            evaluation(digits_like(2)),
            ece=NAN,
            calibration=tuple(CalibrationBin(0, 1, 0, NAN, NAN) for _ in "ab"),
        )
    ),
    "per_class": lambda: figures.per_class(evaluation(digits_like(10))),
    "per_class 40": lambda: figures.per_class(evaluation(digits_like(40))),
    "per_class odd": lambda: figures.per_class(evaluation(ODD_NAMES)),
    "per_class nan": lambda: figures.per_class(
        replace(evaluation(("a", "b")), per_class=tuple(ClassScore(n, 0, NAN, NAN, NAN) for n in "ab"))
    ),
    "per_class none": lambda: figures.per_class(evaluation(())),
    "misclassified": lambda: figures.misclassified(pixels(7), mistakes(7), "digits test"),
    "misclassified one": lambda: figures.misclassified(pixels(1, 1), mistakes(1), ""),
    "misclassified none": lambda: figures.misclassified(pixels(0), [], "digits test"),
    "misclassified odd": lambda: figures.misclassified(
        pixels(len(ODD_NAMES)),
        [replace(mistakes(1)[0], true_class=n, pred_class=n, true_confidence=NAN) for n in ODD_NAMES],
    ),
    "cam_grid": lambda: cams(3),
    "cam_grid one": lambda: cams(1, channels=1, size=(1, 1)),
    "cam_grid none": lambda: cams(0),
    "cam_grid odd": lambda: figures.cam_grid(
        pixels(8),
        [[(name, np.full((2, 3), NAN))] for name in ODD_NAMES],
        [CamRow(f"/a/{name}", None, name, NAN, ()) for name in ODD_NAMES],
    ),
}


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [
        text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()
    ]


def drawn(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def blocks_of(images: np.ndarray, figure: Figure) -> list[tuple[slice, slice]]:
    """Rows and columns that each of these images of one colour fills: a rectangle, and nothing else."""
    page, blocks = drawn(figure), []
    for colour in images[:, 0, 0]:
        rows, columns = np.nonzero((page == colour).all(axis=2))
        block = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        assert (page[block] == colour).all()
        blocks.append(block)
    return blocks


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fits_its_paper_and_is_written_at_150_dpi(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    path = figures.save(figure, tmp_path / "deep" / "er" / "figure.png")
    assert path == tmp_path / "deep" / "er" / "figure.png"
    height, width = imread(path).shape[:2]
    assert (width, height) == pytest.approx(figure.get_size_inches() * 150, abs=1)
    inked = figure.get_tightbbox()
    assert inked.x0 > -0.02
    assert inked.y0 > -0.02
    assert inked.x1 < figure.get_figwidth() + 0.02
    assert inked.y1 < figure.get_figheight() + 0.02
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


# -- saving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("obstacle", ["a folder in its place", "a file above it"])
def test_a_failing_save_is_one_line_and_leaves_nothing(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "here" / "figure.png"
    if obstacle == "a folder in its place":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CifarkitError, match=r"^cannot write the figure .*figure\.png: [^\n]+$"):
        figures.save(FIGURES["image_grid one"](), path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "figure.png"
    path.write_text("old")
    figure = FIGURES["image_grid one"]()

    def write_half(target: Path, **_: object) -> None:
        Path(target).write_text("half")
        raise error

    monkeypatch.setattr(figure.canvas, "print_png", write_half)
    expected = CifarkitError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        figures.save(figure, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    script = """
import sys, matplotlib, pathlib
from cifarkit import figures
settings = [key for key in matplotlib.rcParams if not key.startswith("backend")]  # reading those loads pyplot
before = [matplotlib.rcParams[key] for key in settings]
figures.save(figures.lr_schedule([0.1, 0.2], [0, 1]), pathlib.Path(sys.argv[1]))
assert [matplotlib.rcParams[key] for key in settings] == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "figure.png"], check=True)


def test_threads_draw_the_same_pictures(tmp_path: Path) -> None:
    names = ["lr_schedule one", "image_grid one", "cam_grid one"]

    def drawn(job: tuple[int, str]) -> bytes:
        return figures.save(FIGURES[job[1]](), tmp_path / f"{job[0]}.png").read_bytes()

    alone = [drawn((i, name)) for i, name in enumerate(names)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(drawn, enumerate(names, start=10))) == alone


def test_a_missing_glyph_is_its_number_and_no_warning(tmp_path: Path) -> None:
    figure = figures.image_grid(pixels(1), ["x\U0001f98ay"], suptitle="t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save(figure, tmp_path / "figure.png")
    assert "xU+1F98Ay" in texts(figure)


# -- images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_denormalize_undoes_normalisation_exactly(channels: int) -> None:
    raw = pixels(5, channels)
    mean, std = (0.49, 0.48, 0.45)[:channels], (0.25, 0.24, 0.26)[:channels]
    normalised = ((raw / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(figures.denormalize(normalised, mean, std), raw)


def test_denormalize_clips() -> None:
    images = np.array([-100.0, 100.0, NAN]).reshape(3, 1, 1, 1)
    assert figures.denormalize(images, (0.5,), (0.2,)).ravel().tolist() == [0, 255, 0]


@pytest.mark.parametrize(("count", "columns"), [(1, 10), (7, 3), (10, 10)])
def test_image_grid_shows_every_image_in_its_place(count: int, columns: int) -> None:
    figure = figures.image_grid(flat(count), digits_like(count), columns, "digits train")
    assert {*digits_like(count), "digits train"} <= set(texts(figure))
    blocks = blocks_of(flat(count), figure)
    lefts, tops = ([block[axis].start for block in blocks] for axis in (1, 0))
    assert lefts == [lefts[i % columns] for i in range(count)]
    assert len(set(lefts)) == min(count, columns)
    assert tops == sorted(tops)
    assert len(set(tops)) == -(-count // columns)
    sides = [side.stop - side.start for block in blocks for side in block]
    assert min(sides) > 120
    assert max(sides) - min(sides) <= 1


def test_pixels_stay_crisp_and_keep_their_shape() -> None:
    image = flat(8).reshape(8, 8, 8, 3)[:, 0, 0].reshape(1, 2, 4, 3)
    blocks = blocks_of(image.reshape(8, 1, 1, 3), figures.image_grid(image, ["wide"]))
    sides = [side.stop - side.start for block in blocks for side in block]
    assert min(sides) > 30
    assert max(sides) - min(sides) <= 1


def test_one_channel_is_drawn_in_gray() -> None:
    images = np.array([0, 100, 177], dtype=np.uint8).reshape(3, 1, 1, 1).repeat(8, axis=1).repeat(8, axis=2)
    blocks_of(images[1:].repeat(3, axis=3), figures.image_grid(images, []))


@pytest.mark.parametrize("name", [name for name in FIGURES if name.split()[0] in SHEETS] + ["wide letters"])
def test_lettering_of_images_does_not_overlap(name: str) -> None:
    wide = [replace(mistakes(1)[0], true_class="W" * 20, pred_class="猫" * 20)] * 7
    figure = figures.misclassified(pixels(7), wide) if name == "wide letters" else FIGURES[name]()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip()]
    boxes = [text.get_window_extent() for text in shown]
    for i, box in enumerate(boxes):
        for other in boxes[:i]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, along) < 1, (shown[i], other)
    assert min(text.get_fontsize() for text in shown) > 3.5


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("abcdefghijklmnopq", "abcdefg…lmnopq"),
        ("abcdefghijklmn", "abcdefghijklmn"),
        ("photograph of a cat", "photogr…a cat"),
        ("photograph of a dog", "photogr…a dog"),
        ("5 $ and more than 7 $", r"5 \$ and…an 7 \$"),
    ],
)
def test_long_names_are_cut_in_the_middle(name: str, shown: str) -> None:
    assert shown in texts(figures.image_grid(pixels(1), [name]))


def test_preview_shows_raw_then_epochs() -> None:
    colours = flat(12)
    figure = figures.preview(
        colours[:4], [colours[4:8] / 255, colours[8:] / 255], digits_like(4), "digits train"
    )
    assert {"raw", "epoch 1", "epoch 2", "class 3", "digits train"} <= set(texts(figure))
    corners = [(block[0].start, block[1].start) for block in blocks_of(colours, figure)]
    assert corners == sorted(corners)
    assert len({top for top, _ in corners}) == 3
    assert len({left for _, left in corners}) == 4


def test_stage_labels_are_whole_and_horizontal() -> None:
    (label,) = (text for text in FIGURES["stages"]().findobj(Text) if "Perspective" in text.get_text())
    assert label.get_text().replace("\n", " ") == "Perspective(scale=0.2, p=0.5, fill=0.0)"
    assert label.get_rotation() == 0


def test_misclassified_names_both_classes_and_the_index() -> None:
    figure = figures.misclassified(flat(7), mistakes(7), "digits test")
    assert {"pred: cat (93%)", "true: dog (5%)", "#1000", "#1006", "digits test"} <= set(texts(figure))
    assert len(blocks_of(flat(7), figure)) == 7


# -- curves -----------------------------------------------------------------------------------------


def test_range_test_marks_rules_and_survives_divergence() -> None:
    curve = lr_curve()
    figure = figures.lr_range_test(curve)
    ax = figure.axes[0]
    shown = texts(figure)
    assert {"steepest: 0.01 (used)", "minimum/10: 0.03"} <= set(shown)
    assert not any("valley" in text for text in shown)
    assert any("tiny, digits, adamw" in text for text in shown)
    low, high = ax.get_ylim()
    assert low < min(curve.smoothed)
    assert curve.smoothed[0] < high < 4 < max(curve.smoothed)
    left, right = ax.get_xlim()
    assert left < curve.lrs[0] < curve.lrs[-1] < right
    assert ax.get_xscale() == "log"
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert star.get_xdata() == [0.01]
    assert star.get_ydata()[0] == pytest.approx(np.interp(np.log(0.01), np.log(curve.lrs), curve.smoothed))


def test_range_test_draws_the_raw_loss_where_smoothing_failed() -> None:
    ax = FIGURES["lr_range_test nan loss"]().axes[0]
    assert {line.get_marker() for line in ax.lines} >= {"*"}
    assert ax.get_ylim()[1] < 4


def test_schedule_counts_in_epochs() -> None:
    epochs = [0, 0.5, 1, 1.25, 1.5]
    ax = figures.lr_schedule([0.1, 0.2, 0.3, 0.2, 0.1], epochs).axes[0]
    assert list(ax.lines[0].get_xdata()) == epochs
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize(("peak", "panels"), [(0.2, 1), (20.0, 2)])
def test_groups_far_apart_get_their_own_panels(peak: float, panels: int) -> None:
    figure = figures.lr_schedule({"body": [0.0, 0.1], "head": [0.0, peak]}, [0, 1])
    assert len(figure.axes) == panels
    assert {"body", "head"} <= set(texts(figure))


def test_points_of_a_sample_are_open() -> None:
    rows = [replace(row, val_sampled=row.epoch < 3) for row in epoch_rows(4)]
    figure = figures.training_curves(rows)
    assert texts(figure).count("val, of a sample") == 2
    (points,) = (line for line in figure.axes[1].lines if line.get_label() == "val, of a sample")
    assert list(points.get_xdata()) == [1, 2]
    assert "val, of a sample" not in texts(figures.training_curves(epoch_rows(4)))


def test_seeds_are_told_with_mean_interval_and_target() -> None:
    figure = figures.seeds(fits(5, 0.705))
    said = texts(figure)
    assert "digits, recipe digits, 5 seeds: mean 70.80%, standard deviation 0.84%" in said
    assert {
        "mean 70.80%",
        "its 95% interval",
        "target 70.50%",
        "val accuracy",
        "val accuracy, last epoch",
    } <= set(said)
    ends = figure.axes[1]
    (points,) = ends.collections
    assert [end for _, end in points.get_offsets()] == pytest.approx([0.7, 0.71, 0.72, 0.7, 0.71])
    # Each seed has its colour on both sides.
    courses = [line.get_color() for line in figure.axes[0].lines if line.get_marker() != "o"]
    assert [to_rgba(colour) for colour in courses] == [tuple(colour) for colour in points.get_facecolor()]
    assert [label.get_text() for label in ends.get_xticklabels()] == list("01234")
    alone = texts(figures.seeds(fits(1)))
    assert "its 95% interval" not in alone
    assert len(figures.seeds(fits(30)).axes[1].get_xticks()) == 10
    long = replace(fits(30), seeds=tuple(range(1_000_000, 1_000_030)))
    assert len(figures.seeds(long).axes[1].get_xticks()) == 5


@pytest.mark.parametrize(("count", "best"), [(1, 1), (8, 3)])
def test_training_curves_mark_best_epoch_and_target(count: int, best: int) -> None:
    figure = figures.training_curves(epoch_rows(count), 0.97, "digits, tiny")
    assert len(figure.axes) == 2
    for ax in figure.axes:
        star = next(line for line in ax.lines if line.get_gid() == "best")
        assert star.get_xdata() == [best]
    shown = texts(figure)
    assert {"train", "val", "target: 97.0%", "digits, tiny"} <= set(shown)
    assert any(text.startswith("best: ") and text.endswith(f"epoch {best}") for text in shown)
    assert figure.axes[1].get_ylim()[1] > 0.97
    assert any(text.endswith("%") for text in shown)


# -- scores -----------------------------------------------------------------------------------------


def test_confusion_matrix_is_normalised_by_row_and_counts() -> None:
    scores = evaluation(digits_like(4))
    figure = figures.confusion_matrix(scores)
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    shown = texts(figure)
    assert any("top-1 87.65%" in text and "digits test" in text for text in shown)
    assert {str(scores.confusion[i][i]) for i in range(4)} <= set(shown)
    for name in digits_like(4):
        assert shown.count(name) == 2


def test_many_classes_have_names_but_no_counts() -> None:
    figure = figures.confusion_matrix(evaluation(digits_like(21)))
    assert not figure.axes[0].texts
    assert texts(figure).count("class 20") == 2


def test_calibration_tells_the_error_and_skips_empty_bins() -> None:
    figure = FIGURES["calibration"]()
    assert any("ECE 3.21%" in text and "digits test" in text for text in texts(figure))
    histogram = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert len(histogram) == 12


def test_calibration_does_not_judge_by_a_few_images() -> None:
    bins = tuple(
        CalibrationBin(lower, lower + 0.25, samples, 0.1, lower + 0.1)
        for lower, samples in ((0.25, 9), (0.5, 10), (0.75, 500))
    )
    figure = figures.calibration(replace(evaluation(digits_like(3)), calibration=bins))
    pale = [patch for patch in figure.axes[0].patches if patch.get_facecolor() == to_rgba(PALE)]
    judged = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert [patch.get_x() for patch in pale] == [0.25]
    assert [patch.get_x() for patch in judged] == [0.5, 0.75]


def test_per_class_is_sorted_by_f1() -> None:
    figure = figures.per_class(evaluation(digits_like(3)))
    shown = texts(figure)
    assert [text for text in shown if text.startswith("class")] == [f"class {i}  (90)" for i in (2, 1, 0)]
    assert {"precision", "recall", "50.0%"} <= set(shown)
    assert figures.per_class(evaluation(digits_like(40))).get_figheight() > 3 * figure.get_figheight()


# -- class activation maps --------------------------------------------------------------------------


def test_cam_grid_puts_map_and_overlay_beside_the_image() -> None:
    figure = cams(3, images=flat(3))
    shown = texts(figure)
    assert {"image", "predicted: map", "true: map", "overlay"} <= {text.strip() for text in shown}
    assert {"least", "most evidence within each map"} <= set(shown)
    assert shown.count("constant") == 1
    assert sum("cat 93%" in text for text in shown) == 3
    image, beside, below = blocks_of(flat(3), figure)
    hatched = [patch.get_window_extent() for patch in figure.findobj(Rectangle) if patch.get_hatch()]
    assert len(hatched) == 2
    assert all(image[1].stop < panel.x0 < panel.x1 < beside[1].start for panel in hatched)
    assert all(panel.y0 > figure.bbox.height - below[0].start for panel in hatched)
    # The coarse map and the overlay of the predicted class, between the image and the hatched panels.
    page = drawn(figure)[image[0], image[1].stop : int(hatched[0].x0)]
    coarse, smooth = np.array_split(page[10], 2)
    assert len(np.unique(coarse, axis=0)) < 8 < 40 < len(np.unique(smooth, axis=0))


@pytest.mark.parametrize("count", [1, 3])
def test_the_key_of_the_maps_is_whole(count: int) -> None:
    figure = cams(count)
    figure.canvas.draw()
    (key,) = [text for text in figure.findobj(Text) if text.get_text() == "most evidence within each map"]
    assert key.get_window_extent().x1 < figure.bbox.x1


def test_twenty_cams_fit_a_page() -> None:
    width, height = cams(20).get_size_inches()
    assert height < 1.5 * width


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_blends_a_smooth_map_over_crisp_pixels(channels: int) -> None:
    image = pixels(1, channels)[0]
    cam = np.array([[0.0, 1.0]])
    plain = figures.overlay(image, cam, alpha=0.0)
    factor = plain.shape[0] // 8
    np.testing.assert_array_equal(plain[::factor, ::factor], np.broadcast_to(image, (8, 8, 3)))
    heat = figures.overlay(np.zeros_like(image), cam, alpha=1.0)
    assert len(np.unique(heat[0], axis=0)) > 8 * image.shape[1]
    colours = matplotlib.colormaps["inferno"]([0.0, 1.0])[:, :3] * 255
    np.testing.assert_allclose(heat[0, [0, -1]], colours, atol=1)
