"""Files of settings in YAML or JSON, read as they look.

Numbers are decimal, as in the core schema of YAML 1.2: `0020` is 20 and `1e2` is 100. What YAML 1.1
takes for a number, a boolean or a date besides (`1:40`, `0x10`, `1_000`, `yes`) stays a text, and
whoever needs a number refuses it (`harness.inputs.quantities`). A key that is there twice, an
alias, a tag and a key that is no text are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from harness.inputs.bounded import SETTINGS_BYTES
from harness.inputs.text import read_text

_DEEPEST = 50


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a file.

    Raises `OSError`, or `ValueError` with the reason, and the line where it has one.
    """
    text = read_text(path, SETTINGS_BYTES)
    try:
        content = _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(line + ", ".join(filter(None, [error.context, error.problem]))) from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {number}: a character that YAML does not allow") from None
    except (OverflowError, UnicodeDecodeError):
        raise ValueError("an escape in it stands for no character") from None
    if content is None:
        raise ValueError("it is empty")
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping of names to values, got {_brief(content)}")
    return content


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class has it without an annotation)
    _depth = 0

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self.flow_level and self.peek() == "\t":  # As in indented JSON.
            self.forward()
            super().scan_to_next_token()

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._depth += 1
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"`*{event.anchor}`: write the value itself, not an alias", event)
        if getattr(event, "tag", None) not in {None, "!"}:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _refused(f"the tag `{tag}` means nothing here", event)
        if self._depth > _DEEPEST:
            raise _refused(f"more than {_DEEPEST} levels, one inside the other", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: ScalarNode | MappingNode) -> Any:
        # JSON writes a character outside the basic plane as two halves.
        return super().construct_scalar(node).encode("utf-16", "surrogatepass").decode("utf-16")

    def construct_mapping(self, node: MappingNode, deep: bool = True) -> dict[Any, Any]:
        values: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise _refused("a key is a text, not a list or a mapping", key)
            name = self.construct_scalar(key)
            if name in values:
                raise ValueError(f"`{name}` is there twice: {_both(values[name], value)}")
            values[name] = value
        return {name: self.construct_object(value, deep) for name, value in values.items()}


def _refused(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _both(first: Node, second: Node) -> str:
    return " and ".join(
        f"{_brief(node.value)} in line {node.start_mark.line + 1}" for node in (first, second)
    )


def _brief(value: object) -> str:
    return "a list or mapping" if isinstance(value, list) else f"`{str(value)[:60]}`"


def _integer(loader: _Loader, node: ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
for _kind, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    # Longer ones stay texts: Python reads no number of thousands of digits.
    ("int", "[-+]?[0-9]{1,18}", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _Loader.add_implicit_resolver(_tag, re.compile(f"({_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
