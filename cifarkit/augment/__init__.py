"""Augmentation declared once (`ops`, `policies`) and executed twice (`batched`, `per_image`)."""
