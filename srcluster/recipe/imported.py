"""What a person's own package adds: a network, an objective or a degradation, named by where Python finds it."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from srcluster.errors import UserError
from srcluster.recipe.validation import Part


def _importable(target: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", target):
        raise ValueError(f"it reads package.module:Name, not {target!r}")
    return target


Target = Annotated[str, AfterValidator(_importable)]


class Imported(Part):
    """A class or a function of an installed package, or of a module in the folder that one works in."""

    kind: Literal["import"]
    target: Target
    """`package.module:Name`."""
    args: dict[str, JsonValue] = Field({})
    """Keyword arguments that it is called with."""

    @property
    def package(self) -> str:
        return self.target.partition(":")[0].partition(".")[0]

    def call(self, **more: Any) -> Any:
        """Import the target, and call it with the arguments, and with more; a UserError if either fails."""
        target = import_target(self.target)
        try:
            return target(**more, **self.args)
        except Exception as error:
            said = ", ".join(f"{name}={value!r}" for name, value in (more | self.args).items())
            raise UserError(f"{self.target}({said}) fails: {type(error).__name__}: {error}") from error

    def trial(self, made: Callable[..., Any], *values: Any) -> Any:
        """What that which the target made gives for some values, before anything starts.

        Raises:
            UserError: It fails.
        """
        try:
            return made(*values)
        except UserError:
            raise
        except Exception as error:
            why = str(error).partition("\n")[0]
            raise UserError(f"{self.target} fails when it is tried: {type(error).__name__}: {why}") from error


def import_target(target: str) -> Callable[..., Any]:
    """What `package.module:Name` names.

    Raises:
        UserError: There is no such module or name.
    """
    module, _, name = target.partition(":")
    if os.getcwd() not in sys.path:
        # Where a command is not `python -m`, its folder is not looked in.
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UserError(
            f"there is no {target} to import ({type(error).__name__}: {error}): run in the folder that "
            f"{module.partition('.')[0]} is in, or install it, on all machines"
        ) from error
