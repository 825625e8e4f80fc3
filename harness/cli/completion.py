"""What the shell offers at a TAB: names of backends, presets, fields, values and runs.

The shell starts `harness` at every TAB, so nothing slow is imported here. What cannot be read is
not offered: an error would appear in the middle of the line that the user types.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeAlias, get_args

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from harness.errors import HarnessError

Items: TypeAlias = "list[CompletionItem[str]]"
Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], Items]

# No space follows a word that ends with it.
_UNFINISHED = "="


def backends(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer the backends that have a name, one after each comma."""
    from harness.backend import registry

    names = list(registry.installed())
    with suppress(HarnessError, OSError):
        commands = registry.commands().items()
        names += [name for name, found in commands if not isinstance(found, HarnessError)]
    return _list_of(names, incomplete)


def devices(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer `auto`, or the kinds of devices."""
    return _list_of(["cpu", "gpu"] if "," in incomplete else ["auto", "cpu", "gpu"], incomplete)


def changes(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer what `--what-if` can try, one after each comma."""
    return _list_of(["batch", "seeds", "variant", "threads"], incomplete)


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer the presets."""
    from harness.task.task import PRESETS

    return _beginning(PRESETS, incomplete)


def metrics(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer the metrics that can be compared."""
    from harness.tables.metrics import compared_metrics

    return _beginning(compared_metrics(), incomplete)


def one_of(*names: str) -> Completer:
    """Offer a few fixed names."""
    return lambda ctx, param, incomplete: _beginning(names, incomplete)


def setting(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer `FIELD=`, and then the field's values where it has a choice of them."""
    field, equals, value = incomplete.partition(_UNFINISHED)
    if not equals:
        return _fields(field)
    return [CompletionItem(field + equals + v.value) for v in _beginning(_values(field), value)]


def swept(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer `FIELD=`, and then its values, one after each comma."""
    field, equals, value = incomplete.partition(_UNFINISHED)
    if not equals:
        return _fields(field)
    return [CompletionItem(field + equals + v.value) for v in _list_of(_values(field), value)]


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer the runs in `--results`; at a URL none, which could take long to answer."""
    from harness.store.results_folder import run_folders

    results = str(ctx.params.get("results") or "results")
    if "://" in results:
        return []
    try:
        names = [folder.name for folder in run_folders(os.path.expanduser(results))]
    except (HarnessError, OSError):
        return []
    return _beginning(names, incomplete)


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Let the shell offer folders."""
    return [CompletionItem(incomplete, type="dir")]


def _beginning(names: Iterable[str], incomplete: str) -> Items:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _list_of(names: Iterable[str], incomplete: str) -> Items:
    """Complete the last of several names between commas; none is offered twice."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    fresh = [name for name in names if name not in taken]
    return [CompletionItem(before + comma + item.value) for item in _beginning(fresh, last)]


def _fields(incomplete: str) -> Items:
    from harness.task.task import Task

    return [
        CompletionItem(name + _UNFINISHED, help=field.description)
        for name, field in Task.model_fields.items()
        if name.startswith(incomplete)
    ]


def _values(field: str) -> list[str]:
    """Return the values of a field that has a choice of them (a `Literal`)."""
    from harness.task.task import Task

    info = Task.model_fields.get(field)
    return [] if info is None else [str(value) for value in get_args(info.annotation)]


@add_completion_class
class Bash(BashComplete):
    """Completion for bash, which breaks `cell=gru` and `module:Class` into three words each.

    The words are joined again before they are completed; each answer starts after the last break.
    """

    source_template = BashComplete.source_template.replace(
        "    return 0\n",
        "    [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *= ]] && compopt -o nospace 2> /dev/null\n"
        "    return 0\n",
    )
    _known = 0

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the whole words before the cursor, and the one that it is in."""
        number = int(os.environ["COMP_CWORD"])
        words = split_arg_string(os.environ["COMP_WORDS"])[: number + 1]
        current = words[number] if number < len(words) else ""
        whole: list[str] = []
        glue = False
        for word in words[1:]:
            breaks = re.fullmatch("[=:]+", word) is not None
            if whole and (breaks or (glue and not word.startswith("--"))):
                whole[-1] += word
            else:
                whole.append(word)
            glue = breaks
        incomplete = whole.pop() if whole and number < len(words) else ""
        # Of `--option=value`, only the value is completed.
        value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
        self._known = max(0, len(value) - (0 if glue else len(current)))
        return whole, incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Return the type of an answer, and the part of it after the last break."""
        return f"{item.type},{item.value[self._known :]}"


@add_completion_class
class Zsh(ZshComplete):
    """Completion for zsh, without a space after `FIELD=`."""

    source_template = (
        ZshComplete.source_template.replace("local -a response", "local -a response unfinished")
        .replace(
            'completions_with_descriptions+=("$key":"$descr")',
            '[[ $key == *= ]] && unfinished+=("$key":"$descr") ||'
            ' completions_with_descriptions+=("$key":"$descr")',
        )
        .replace(
            '    if [ -n "$completions" ]',
            "    (( $#unfinished )) && _describe -V unsorted unfinished -U -S ''\n\n"
            '    if [ -n "$completions" ]',
        )
    )


@add_completion_class
class Fish(FishComplete):
    """Completion for fish; click's own script cuts an answer at its first comma."""

    source_template = FishComplete.source_template.replace('split ","', 'split -m 1 ","')
