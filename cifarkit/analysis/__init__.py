"""One forward pass, many questions: predictions, and pure functions of them; class activation maps."""

from __future__ import annotations

# Orders of misclassified images.
SORTS = ("confidence", "loss", "index")

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
