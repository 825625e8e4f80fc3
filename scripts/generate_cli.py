"""Write docs/cli.md, the reference of the command line, from the help texts of the commands.

python scripts/generate_cli.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from harness.cli import cli

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100
HEAD = """\
# The command line

This page lists every command with its options and their defaults. `python scripts/generate_cli.py`
writes it from the help texts, so it says what `--help` says.

`python -m harness` and `harness` are the same; `harness` works where the package is installed.
A value in brackets is optional.

## Completion in the shell

Press TAB to complete commands, options, backends, presets, task fields and their values, and
the names of runs. Add the line for your shell to its start-up file:

| shell | file | line |
|---|---|---|
| bash (4.4 or newer) | `~/.bashrc` | `eval "$(_HARNESS_COMPLETE=bash_source harness)"` |
| zsh | `~/.zshrc`, after `compinit` | `eval "$(_HARNESS_COMPLETE=zsh_source harness)"` |
| fish | `~/.config/fish/config.fish` | `_HARNESS_COMPLETE=fish_source harness \\| source` |

Completion works for `harness`, not for `python -m harness`: a shell cannot complete what follows
`python -m`. If the virtual environment is not active in the start-up file, give the full path:
`eval "$(_HARNESS_COMPLETE=bash_source ~/project/.venv/bin/harness)"`. Activate the environment
before you press TAB.
"""


def render() -> str:
    """Return the page."""
    pages = list(_commands(cli, "harness"))
    lists = "\n".join(
        f"| [`{name}`](#{_anchor(name)}) | {_cell(command.get_short_help_str(200))} |"
        for name, command in pages
    )
    parts = [HEAD, f"## Commands\n\n| command | what it does |\n|---|---|\n{lists}\n"]
    about, examples = _help(cli)
    parts.append(f"{about}\n\n{_lines(cli.epilog)}\n\n{_code(examples)}")
    parts += [_page(name, command) for name, command in pages]
    return "\n".join(parts).rstrip("\n") + "\n"


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield all commands with their full names, a group before what is in it."""
    for name, command in sorted(group.commands.items()):
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _page(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, show_default=True)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    about, examples = _help(command)
    parts = [f"## {name}\n", _code([usage]), f"{about}\n"]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        parts.append("| option | value | default | what it does |\n|---|---|---|---|")
        parts += [_row(option, context) for option in options]
        parts.append("")
    if examples:
        parts += ["Examples:\n", _code(examples)]
    if command.epilog:
        parts.append(f"{_lines(command.epilog)}\n")
    return "\n".join(parts)


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    repeated = ", repeatable" if option.multiple else ""
    given = "" if option.is_flag else _value(option) + repeated
    default = option.get_help_extra(context).get("default")
    shown = f"`{default}`" if default else ""
    about = option.help or ""
    if isinstance(option.envvar, str) and option.envvar not in about:
        about += f" Variable: `{option.envvar}`."
    return f"| {names} | {_cell(given)} | {_cell(shown)} | {_cell(about)} |"


def _value(option: click.Option) -> str:
    """Return what the option takes: one of its values, or a name and the type of it."""
    if isinstance(option.type, click.Choice):
        return f"`{'|'.join(map(str, option.type.choices))}`"
    kind = {"integer": "a whole number", "float": "a number"}.get(option.type.name, "")
    return ", ".join(filter(None, [option.metavar and f"`{option.metavar}`", kind])) or "text"


def _help(command: click.Command) -> tuple[str, list[str]]:
    r"""Return what a command says of itself and its examples, which follow a `\b`."""
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    about, _, rest = text.partition("\b\n")
    examples = [line.strip() for line in rest.splitlines() if line.startswith("  ")]
    paragraphs = about.strip().split("\n\n")
    return "\n\n".join(_lines(part) for part in paragraphs), examples


def _lines(paragraph: str | None) -> str:
    text = _plain(" ".join((paragraph or "").replace("\b", "").split()))
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _plain(text: str) -> str:
    """Keep Markdown from seeing an emphasis in `a_b` or `a*b` outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<])", r"\\\1", p) for p in parts)


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", r"\|")


def _code(lines: list[str]) -> str:
    return "```\n" + "\n".join(lines) + "\n```\n"


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(render())
