"""``python -m cifarkit``."""

from cifarkit.cli import main

main()
