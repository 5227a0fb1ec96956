"""YAML files, and words that were probably meant."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from srcluster.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars, as they look: 1e-4 is a number, `on` and a date are text.

    What YAML 1.1 and 1.2 read differently, 010 and 1:30, is refused, as is a key that is given twice.
    """

    def mapping(self, node: MappingNode) -> dict[Any, Any]:
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in keys:
                    _refuse(key, f"{key.value} is given twice: remove one")
                keys.add((key.tag, key.value))
        self.flatten_mapping(node)
        return self.construct_mapping(node, deep=True)

    def integer(self, node: ScalarNode) -> int:
        if re.match(r"[-+]?0[0-9_]", node.value):
            _refuse(node, f"some read {node.value} as octal: write it without the 0, or in quotes if it is text")
        return int(node.value, 0)

    def sexagesimal(self, node: ScalarNode) -> None:
        _refuse(node, f"some read {node.value} as a number of base 60: write the number, or quotes if it is text")


def _refuse(node: Node, words: str) -> None:
    raise ConstructorError(problem=words, problem_mark=node.start_mark)


# Else what is added below would be added to SafeLoader's.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?([0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)", "-+0123456789"),
    ("sexagesimal", r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    first = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), first)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:sexagesimal", _Loader.sexagesimal)


def read_yaml(text: str, origin: str) -> Any:
    """Parse YAML; `origin` names its source in an error, also of what can be read in two ways."""
    try:
        return yaml.load(text, _Loader)
    except ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{origin}, line {line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error


def read_mapping(text: str, origin: str, keys: str) -> dict[str, Any]:
    """Parse YAML that is a mapping; `keys` says in the error what it should hold."""
    values = read_yaml(text, origin)
    if not isinstance(values, dict):
        raise UserError(f"{origin} should be a mapping with {keys}")
    return values


def read_file(path: Path) -> str:
    """The text of a YAML file in UTF-8, or in UTF-16 if it begins with a byte order mark."""
    try:
        content = path.read_bytes()
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8: save the file in that encoding") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error


def shipped_files(folder: str = "") -> dict[str, Path]:
    """The YAML files of `srcluster/recipes`, or of a folder in it, by name."""
    paths = (Path(__file__).parents[1] / "recipes" / folder).glob("*.yaml")
    return {path.stem: path for path in sorted(paths)}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'steps'?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
