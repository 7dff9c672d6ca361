"""Where figures and reports go, and how they are called there."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarkit import figures
from cifarkit.tracking import place

FIGURE_IMAGES = 20
# Bytes; the name of a file may have 255.
LONGEST_PART = 60


@dataclass(frozen=True)
class Folder:
    """Where figures and reports go.

    Attributes:
        run_id: a run that takes the place of this folder, where that is a temporary one.
        written: what has been written so far, whole files only.
    """

    root: Path
    run_id: str | None = None
    written: list[Path] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """What a record calls a file of this folder: its path, or its place in the run."""
        return f"runs:/{self.run_id}/{place(path)}/{path.name}" if self.run_id else str(path)

    def figure(self, name: str, drawn: Any) -> Path:
        self.written.append(figures.save(drawn, self.root / f"{name}.png"))
        return self.written[-1]

    def report(self, name: str, text: str) -> Path:
        scratch = self.root / f".{name}.tmp"
        self.root.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8", newline="")
        self.written.append(scratch.replace(self.root / name))
        return self.written[-1]


def named(stem: str, *variant: str | None) -> str:
    """A file name that says how a report differs from the run's own one, which it must not replace."""
    return "_".join((stem, *(_plain(part) for part in variant if part)))


def first(limit: int) -> str | None:
    """The variant of a report of so many images."""
    return f"first {limit}" if limit != FIGURE_IMAGES else None


def _plain(part: str) -> str:
    """What of a text may stand in a file's name; of a long one its beginning and a checksum of it all."""
    plain = re.sub(r"(?:[^\w.+-]|-)+", "-", part).strip("-")
    if len(plain.encode()) <= LONGEST_PART:
        return plain
    checksum = hashlib.sha256(part.encode(errors="surrogateescape")).hexdigest()[:8]
    return plain.encode()[: LONGEST_PART - 9].decode(errors="ignore") + f"-{checksum}"
