"""The base of every part of a recipe, and pydantic's findings as sentences that say what to change."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError
from pydantic_core import ErrorDetails

from srcluster.recipe.yaml_files import did_you_mean


class Part(BaseModel):
    """Part of what YAML says: it takes no key that it does not know, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __hash__(self):
        # pydantic's own takes no part that holds a dict.
        return hash(self.model_dump_json())


def kind_or(default: str) -> Discriminator:
    """Which of several parts is meant, by its `kind`, which may be left out where it is the default."""

    def kind(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", default)

    return Discriminator(kind)


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """What is wrong with the values that `root` refused: each place, the reason, and what was probably meant."""
    return "; ".join(_sentence(problem, root) for problem in error.errors())


def _sentence(problem: ErrorDetails, root: type[BaseModel]) -> str:
    path, models = _walk(problem["loc"], root)
    where = ".".join(path)
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {where}{did_you_mean(path[-1], (name for one in models for name in one.model_fields))}"
        case "missing":
            return f"{where} is missing"
        case "union_tag_not_found":
            return f"{where}.kind is missing"
        case "union_tag_invalid":
            kinds, kind = problem["ctx"]["expected_tags"], problem["ctx"]["tag"]
            meant = did_you_mean(kind, kinds.replace("'", "").split(", "))
            return f"{where}.kind is one of {kinds}, not {kind!r}{meant}"
        case "value_error":
            return f"{where}: {problem['ctx']['error']}" if where else str(problem["ctx"]["error"])
        case _:
            return f"{where}: {problem['msg']} (given: {problem['input']!r})"


def _walk(place: tuple[str | int, ...], root: type[BaseModel]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of a place without the kinds that pydantic puts in between, and the models that its last key is in."""
    path, models, inside = [], [root], [root]
    for key in map(str, place):
        models = inside
        kinds = {one: get_args(one.model_fields["kind"].annotation) for one in models if "kind" in one.model_fields}
        chosen = [one for one in kinds if key in kinds[one]]
        if chosen:
            inside = chosen
            continue
        path.append(key)
        fields = [one.model_fields[key].annotation for one in models if key in one.model_fields]
        inside = [part for annotation in fields for part in _models(annotation)] or models
    return path, models


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
