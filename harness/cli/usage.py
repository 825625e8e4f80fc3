"""Commands and options that say what is wrong in the words of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from harness.errors import InvalidInput, Unavailable, UnknownName, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

_QUOTES = "'\""
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# A name that is unknown was typed, and is no field even if one has it.
_FIELD = re.compile(rf"(?<!unknown name )`(\w+)`(?: = ({_QUOTED}|[^\s'\"`][^:`]*)(?=: ))?")


class Option(click.Option):
    """Is given once, unless it is `multiple`; click takes the last of several in silence."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser keep every value."""
        multiple, self.multiple = self.multiple, True
        super().add_to_parser(parser, ctx)
        self.multiple = multiple

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Refuse two values that differ; the same one twice is harmless. Refuse an empty value.

        That of a variable of the shell that is not set is empty.
        """
        if not self.multiple and self.name in opts:
            *others, last = opts[self.name]
            unlike = [value for value in others if value != last]
            if unlike and not ctx.resilient_parsing:
                named = " and ".join(map(self._given, (unlike[0], last)))
                raise click.UsageError(f"`{self.opts[0]}` is given twice: {named}.", ctx)
            if not any(str(value).strip() for value in ([last] if self.nargs == 1 else last)):
                raise InvalidInput(f"`{self.opts[0]}` is empty: give a value, or leave it out.")
            opts = {**opts, self.name: last}
        return super().handle_parse_result(ctx, opts, args)

    def _given(self, value: Any) -> str:
        if self.is_flag:
            return f"`{(self.opts if value else self.secondary_opts)[0]}`"
        return f"`{self.opts[0]} {value}`" if isinstance(value, str) else f"`{self.opts[0]}`"


class Choice(click.Choice[str]):
    """One of a few names; a wrong one is told the nearest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return click's sentence, and the nearest name."""
        sentence = super().get_invalid_choice_message(value, ctx).rstrip(".")
        return f"{sentence}{did_you_mean(str(value), self.choices)}."


class Command(click.Command):
    """Names the command that has an unknown option, and options instead of fields."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; name the nearest to an unknown one."""
        unlimited, ctx.allow_extra_args = ctx.allow_extra_args, True
        with _unknown_options(ctx):
            extra = super().parse_args(ctx, args)
        if extra and not (unlimited or ctx.resilient_parsing):
            backends = any("--backends" in parameter.opts for parameter in self.params)
            hint = f"; backends are named by `--backends {','.join(extra)}`" * backends
            words = " ".join(extra)
            raise click.UsageError(f"`{ctx.info_name}` takes no `{words}` there{hint}.", ctx)
        return extra

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its errors speak of options."""
        with in_words_of(self):
            return super().invoke(ctx)


class Group(click.Group):
    """Names the nearest command to an unknown one."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command; name the command that has an unknown one."""
        with _unknown_options(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise UnknownName("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


def subcommand(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a `Command` of a function."""
    return click.command(name, cls=Command, **settings)


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Add an `Option` to a command."""
    return click.option(*names, cls=Option, **settings)


@contextmanager
def in_words_of(command: click.Command) -> Iterator[None]:
    """Name options in place of the fields that they fill in: `--budget` for `budget_s`.

    A sentence is changed only if it begins with such a field: others may quote a name that happens
    to be the same, or speak of a file.
    """
    try:
        yield
    except (InvalidInput, Unavailable) as error:
        from harness.task.task import Task

        options = {
            parameter.name: parameter.opts[0]
            for parameter in command.params
            if isinstance(parameter, click.Option) and parameter.name not in Task.model_fields
        }
        lines = error.problems if isinstance(error, InvalidInput) else str(error).splitlines()
        raise InvalidInput(*(_spoken(line, options) for line in lines)) from error


def _spoken(sentence: str, options: Mapping[str, str]) -> str:
    first = _FIELD.match(sentence)
    if first is None or first[1] not in options:
        return sentence

    def named(found: re.Match[str]) -> str:
        name, value = options.get(found[1]), found[2]
        if name is None:
            return found[0]
        if value is None:
            return f"`{name}`"
        return f"`{name} {ast.literal_eval(value) if value[0] in _QUOTES else value}`"

    return _FIELD.sub(named, sentence)


@contextmanager
def _unknown_options(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except click.NoSuchOption as error:
        group = ctx.find_root().command
        commands = group.commands if isinstance(group, click.Group) else {}
        having = [
            name
            for name, other in commands.items()
            if any(error.option_name in (*p.opts, *p.secondary_opts) for p in other.params)
        ]
        known = [name for p in ctx.command.params for name in (*p.opts, *p.secondary_opts)]
        words = did_you_mean(error.option_name, known)
        field = _task_field(error.option_name)
        if field and "--set" in known:
            words = f"; it is a field of the task: `--set {field}=VALUE`"
        if having:
            words = f"; it is an option of {' and '.join(f'`{name}`' for name in having)}"
        raise click.UsageError(
            f"`{ctx.info_name}` has no option `{error.option_name}`{words}.", ctx
        ) from None


def _task_field(option: str) -> str | None:
    """Return the field of a task that an option is named like, or by another name of it."""
    from harness.task.task import Task

    name = option.lstrip("-").replace("-", "_")
    field = Task.other_names.get(name, name)
    return field if field in Task.model_fields else None
