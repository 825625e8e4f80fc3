"""A place on this machine for what the folder of a run does not take."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import brief
from harness.store.files import LocalFolder
from harness.store.manifest import MANIFEST

# A full disk often holds the folder for temporary files, too; the second one is in memory.
_PLACES = (None, "/dev/shm")


@dataclass(frozen=True)
class Rescued:
    """What the folder of a run lacks: its manifest if there are no records."""

    records: int
    folder: str = ""
    """Where they are: a folder like that of the run."""
    problem: str = ""
    """Why they could not be kept there, or only some of them."""
    back: str = ""
    """The shell's command that puts them into the run."""

    def __str__(self) -> str:
        records = f"{self.records} record{'s' * (self.records > 1)}"
        lacks = f"The run lacks {records if self.records else 'its manifest'}"
        if not self.problem:
            return f"{lacks}, kept in `{self.folder}`."
        some = f"; earlier ones are in `{self.folder}`" if self.folder else ""
        return (
            f"{lacks}, and the folder for temporary files cannot be written either: "
            f"{self.problem}{some}."
        )


class Rescue:
    """A folder among the temporary files, made when it is first needed."""

    def __init__(self, run: Path) -> None:
        """Take the local folder of the run, or that of its outbox."""
        self._run = run
        self.folder: Path | None = None
        """Where it is, if there is one."""

    def keep(self, files: Mapping[str, bytes]) -> Rescued:
        """Write the manifest and records, by their names in the run.

        What was written before is replaced, but only once everything is written.
        """
        problem = ""
        for place in _PLACES:
            made = None
            try:
                made = Path(tempfile.mkdtemp(prefix=f"harness-{self._run.name}-", dir=place))
                (made / self._run.name).mkdir()
                for name, content in files.items():
                    LocalFolder(made / self._run.name).write(name, content)
            except OSError as error:
                problem = problem or brief(error)
                _remove(made)
            else:
                self.remove()
                self.folder, problem = made, ""
                break
        records = len(files.keys() - {MANIFEST})
        if self.folder is None:
            return Rescued(records, problem=problem)
        kept = self.folder / self._run.name
        back = shlex.join(["cp", "-r", str(kept), str(self._run.parent)])
        if not self._run.parent.is_dir():
            back = f"{shlex.join(['mkdir', '-p', str(self._run.parent)])} && {back}"
        return Rescued(records, str(kept), problem, back)

    def remove(self) -> None:
        """Remove it: what is in it is elsewhere by now."""
        _remove(self.folder)
        self.folder = None


def _remove(folder: Path | None) -> None:
    if folder is not None:
        LocalFolder(folder).remove()
