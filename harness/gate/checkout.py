"""A git reference checked out beside the working tree, so that both can be measured."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from harness.errors import InvalidInput, UnknownName
from harness.measure.git import git
from harness.measure.machine import installed
from harness.measure.process import Tree

_RESULTS = "results"
"""The folder that runs write to by default."""


@dataclass(frozen=True)
class Checkout:
    """Two versions of a project, each with the paths that its processes import from."""

    working: Tree
    reference: Tree
    root: Path
    """The root of the working tree."""
    reference_root: Path
    working_name: str
    """For a sentence: `the working tree (1a2b3c4, with changes)`."""
    reference_name: str
    identical: bool
    """Whether the working tree holds exactly what the reference does."""


@contextmanager
def checkout(
    reference: str, modules: Sequence[str], outputs: Sequence[Path] = ()
) -> Iterator[Checkout]:
    """Check a reference out into a temporary folder, for the time of the `with` block.

    `modules` are imported in both versions; `outputs` are no part of a version. Raises
    `InvalidInput` if there is no git repository or no such reference.
    """
    root = Path(git("rev-parse", "--show-toplevel"))
    commit = _commit(reference)
    tracked = git("diff", "--name-only", commit, "--", *_all_but(root, outputs))
    same = not tracked and not _untracked(root, outputs)
    with tempfile.TemporaryDirectory(prefix="harness-reference-") as folder:
        # Python resolves the paths of what it imports, too.
        path = Path(folder).resolve() / "tree" / root.name
        _extract(commit, root, path)
        here = Tree.here()
        # First, because the same modules may be installed, too.
        first = () if sys.flags.safe_path else (str(here.cwd),)
        working = _with_roots(replace(here, paths=(*first, *here.paths)), root, modules)
        yield Checkout(
            working=working,
            reference=_moved(working, root, path),
            root=root,
            reference_root=path,
            working_name=describe_working_tree(outputs),
            reference_name=f"{reference} ({commit[:7]})",
            identical=same,
        )


def _extract(commit: str, root: Path, to: Path) -> None:
    """Write the files of a commit to a folder.

    It has an index of its own, so nothing in the repository changes and no hook runs.
    """
    index = str(to.parent.with_name("index"))
    git("read-tree", commit, GIT_INDEX_FILE=index)
    git("checkout-index", "--all", f"--prefix={to}/", folder=root, GIT_INDEX_FILE=index)


def describe_working_tree(outputs: Sequence[Path] = ()) -> str:
    """Name this version for a sentence: `the working tree (1a2b3c4, with changes)`.

    `outputs` are files that are no part of it.
    """
    try:
        root = Path(git("rev-parse", "--show-toplevel"))
        head = git("rev-parse", "--short", "HEAD")
        tracked = git("diff", "--name-only", "HEAD", "--", *_all_but(root, outputs))
        changes = ", with changes" if tracked or _untracked(root, outputs) else ""
    except InvalidInput:
        return "the code at hand"
    return f"the working tree ({head}{changes})"


def _untracked(root: Path, outputs: Sequence[Path]) -> bool:
    """Whether there are files that git does not know, other than what running code leaves."""
    left = [*outputs, *(folder / _RESULTS for folder in (root, Path.cwd()))]
    caches = ":(top,exclude,glob)**/__pycache__/**"
    others = ("ls-files", "--others", "--exclude-standard", "--", *_all_but(root, left), caches)
    return bool(git(*others))


def _all_but(root: Path, paths: Sequence[Path]) -> list[str]:
    """Return the pathspecs of all files of the repository but these."""
    root = root.resolve()
    inside = [path.resolve() for path in paths if path.resolve().is_relative_to(root)]
    return [":(top)", *(f":(top,exclude,literal){path.relative_to(root)}" for path in inside)]


def _commit(reference: str) -> str:
    """Return the commit that a reference names."""
    try:
        # A reference that looks like an option is still a reference.
        return git(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}"
        )
    except InvalidInput:
        known = git("for-each-ref", "--format=%(refname:short)").split()
        hint = ", or a commit; a shallow clone lacks most, fetch what you need"
        raise UnknownName("git reference", reference, known, hint) from None


def _with_roots(tree: Tree, root: Path, modules: Sequence[str]) -> Tree:
    """Add the folders of the project that the modules are imported from.

    A package installed in editable mode need not be found by way of the import path.
    """
    roots = []
    for module in modules:
        spec = find_spec(module)
        if spec and spec.origin:
            depth = module.count(".") + bool(spec.submodule_search_locations)
            roots.append(str(Path(spec.origin).resolve().parents[depth]))
    inside = [p for p in roots if Path(p).is_relative_to(root) and not installed(p)]
    return Tree(tree.cwd, tuple(dict.fromkeys([*tree.paths, *inside])))


def _moved(tree: Tree, root: Path, to: Path) -> Tree:
    """Return the same folders in another checkout."""

    def move(path: str | os.PathLike[str]) -> Path:
        resolved = Path(path).resolve()
        return to / resolved.relative_to(root) if resolved.is_relative_to(root) else resolved

    cwd = move(tree.cwd)
    return Tree(cwd if cwd.is_dir() else to, tuple(str(move(path)) for path in tree.paths))
