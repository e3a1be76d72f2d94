"""A YAML file that a facility edits: its content, and the line of each key for messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tololo.facility.errors import BadInputError


def read_yaml(path: Path, name: str, remedy: str) -> tuple[Any, yaml.Node | None]:
    """Read a YAML file.

    Parameters
    ----------
    path : `pathlib.Path`
    name : `str`
        What it is, for the message: "The list of bad exposures".
    remedy : `str`
        What to do where it cannot be read.

    Returns
    -------
    content : `dict`, `list`, `str` or `None`
        `None` of an empty file.
    node : `yaml.Node` or `None`
        The same as `line_of` takes it.

    Raises
    ------
    BadInputError
        If it cannot be read, or is not YAML: then the line is named.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{name} cannot be read: {error}", str(path), remedy) from error
    try:
        return yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInputError(f"Not YAML: {reason}", where, "mend that line") from error
    except ValueError as error:  # what has the form of a date and is none: 2024-13-45
        where = f"{path}, line {_line_of_no_value(yaml.compose(text, Loader=yaml.SafeLoader))}"
        raise BadInputError(f"Not YAML: {error}", where, "mend that line") from error


def _line_of_no_value(node: yaml.Node | None) -> int:
    """Return the line (from 1) of the first value that cannot be made of what is written."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.SafeLoader("").construct_object(node)
        except ValueError:
            return node.start_mark.line + 1
        return 0
    parts = getattr(node, "value", [])
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in parts for part in pair]
    return next(filter(None, map(_line_of_no_value, parts)), 0)


def line_of(node: yaml.Node | None, keys: Sequence[str | int]) -> int:
    """Return the line (from 1) of a key or list item, or of the innermost one that is there."""
    line = 1
    for key in keys:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if name.value == key), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
    return line
