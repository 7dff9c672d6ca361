"""One forward pass, many questions: predictions, and pure functions of them; class activation maps."""

from __future__ import annotations

# Orders of misclassified images, and what figures call them.
SORTS: dict[str, str] = {
    "confidence": "surest first",
    "loss": "highest loss first",
    "index": "in their published order",
}

# Names on the command line to classes of pytorch_grad_cam.
METHODS: dict[str, str] = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
}
# Those whose map is the same for every class.
CLASSLESS = ("eigencam",)
