"""Records with their figures and files: what a run holds under ``figures/`` and ``reports/``."""

from cifarkit.reports.cams import Chosen, choose_images, chosen_by_index, report_cams
from cifarkit.reports.folder import FIGURE_IMAGES, Folder, named
from cifarkit.reports.scores import report_evaluation, report_mistakes
from cifarkit.reports.training import preview_figure, report_training

__all__ = [
    "FIGURE_IMAGES",
    "Chosen",
    "Folder",
    "choose_images",
    "chosen_by_index",
    "named",
    "preview_figure",
    "report_cams",
    "report_evaluation",
    "report_mistakes",
    "report_training",
]
