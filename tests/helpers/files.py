"""Files for tests."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
