"""Train small image classifiers to a target accuracy: fast, tracked in MLflow, explained."""

__version__ = "0.1.0"
