"""YAML files, and words that were probably meant."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import yaml

from srcluster.errors import UserError

__all__ = ["did_you_mean", "read_mapping", "read_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for text, as it has no point; here it is the number that it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(text: str, origin: str) -> Any:
    """Parse YAML; `origin` names its source in the error.

    Raises:
        UserError: It is not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error


def read_mapping(text: str, origin: str, keys: str) -> dict[str, Any]:
    """Parse YAML that is a mapping; `keys` says in the error what it should hold."""
    values = read_yaml(text, origin)
    if not isinstance(values, dict):
        raise UserError(f"{origin} should be a mapping with {keys}")
    return values


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'steps'?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
