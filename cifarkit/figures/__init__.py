"""Pictures of results: pure functions from records and arrays to a matplotlib `Figure`, and `save`.

The only home of matplotlib. Nothing here touches pyplot or any other global state, so figures may be
drawn from any thread. Images are uint8 (N, H, W, C) with C 1 (drawn in gray) or 3.
"""

from cifarkit.figures.bars import bench_bars
from cifarkit.figures.cams import cam_grid, overlay
from cifarkit.figures.canvas import save
from cifarkit.figures.curves import lr_range_test, lr_schedule, training_curves
from cifarkit.figures.grids import denormalize, image_grid, misclassified, preview, stages
from cifarkit.figures.scores import calibration, confusion_matrix, per_class
from cifarkit.figures.seeds import seeds

__all__ = [
    "bench_bars",
    "calibration",
    "cam_grid",
    "confusion_matrix",
    "denormalize",
    "image_grid",
    "lr_range_test",
    "lr_schedule",
    "misclassified",
    "overlay",
    "per_class",
    "preview",
    "save",
    "seeds",
    "stages",
    "training_curves",
]
