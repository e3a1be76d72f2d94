"""A YAML file against a schema: the first mistake is told with its file, line and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError
from tololo.facility.yaml_file import line_of, read_yaml

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class CheckedYaml:
    """The content of a file that keeps to its schema.

    ``name`` is what the file is, for messages: "The reduction configuration".
    """

    path: Path
    name: str
    content: Mapping[str, Any]
    node: yaml.Node | None

    def wrong(self, keys: Sequence[str | int], message: str, remedy: str) -> BadInputError:
        """Return the error that says what is wrong with a key."""
        return _wrong(self.path, self.name, self.node, keys, message, remedy)

    def written(self, *keys: str) -> str:
        """Return a value as it stands in the file: YAML reads 17:30:25 as a number to the base of 60."""
        node = self.node
        for key in keys:
            node = next((value for name, value in getattr(node, "value", ()) if name.value == key), None)
        return str(node.value) if node is not None else ""


def read_checked(path: Path, name: str, schema: Mapping[str, Any], remedy: str) -> CheckedYaml:
    """Read a YAML file and check it.

    Parameters
    ----------
    path : `pathlib.Path`
    name : `str`
        What it is, for messages.
    schema : mapping
        JSON schema; the ``description`` of a part is what to do where that part is wrong.
    remedy : `str`
        What to do where no part says it.

    Raises
    ------
    BadInputError
        The file cannot be read, is not YAML, or breaks the schema.
    """
    import jsonschema

    content, node = read_yaml(path, name, remedy)
    found = jsonschema.Draft202012Validator(schema).iter_errors(content)
    faults = sorted(found, key=lambda error: [str(key) for key in error.path])
    if faults:
        fault = faults[0]
        raise _wrong(
            path, name, node, _keys(fault), _said(fault), fault.schema.get("description", "") or remedy
        )
    return CheckedYaml(path, name, content, node)


def _wrong(
    path: Path, name: str, node: yaml.Node | None, keys: Sequence[str | int], message: str, remedy: str
) -> BadInputError:
    key = ".".join(map(str, keys)) or "(top)"
    return BadInputError(
        f"{name} is wrong: {message}", f"{path}, line {line_of(node, keys)}, key {key}", remedy
    )


def _said(fault: Any) -> str:
    """Return the message of a fault; of an unknown key also which keys there are."""
    if fault.validator == "additionalProperties":
        return f"{fault.message}; there are {', '.join(fault.schema['properties'])}"
    return str(fault.message)


def _keys(fault: Any) -> list[str | int]:
    """Return the path of the key that a fault is about, also where the key is missing or unknown."""
    there = set(fault.instance) if isinstance(fault.instance, dict) else set()
    named: set[str] = set()
    if fault.validator == "required":
        named = {key for key in fault.validator_value if repr(key) in fault.message} - there
    elif fault.validator == "additionalProperties":
        named = there - set(fault.schema["properties"])
    return [*fault.absolute_path, *sorted(map(str, named))[:1]]
