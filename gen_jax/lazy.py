"""Public names that load when they are first used, listed once, in a stub that type checkers read.

Importing the mathematics of diffusion must not load networks, and its rules not even JAX. An
editor, mypy and pyright read ``__init__.pyi`` beside the package; so does this.
"""

import ast
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["attach", "callable_as", "without_extra"]


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list]:
    """Make ``__getattr__``, ``__dir__`` and ``__all__`` of a package from its stub.

    Args:
        package: its ``__name__``.
        file: its ``__file__``, beside which ``__init__.pyi`` lies: ``from MODULE import NAME``
            statements. What comes from the package itself is a module of it.

    Example:
        >>> __getattr__, __dir__, __all__ = attach(__name__, __file__)
    """
    places = _places(Path(file).with_suffix(".pyi"))

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name]
        try:
            if module == package:  # one of its own modules
                found = importlib.import_module(f"{module}.{attribute}")
            else:
                found = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise without_extra(f"{package}.{name}", error) from error
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return load, names, sorted(places)


# What an extra brings beside that of networks and trainer.
_EXTRAS = {
    "diffrax": "likelihood",
    "tensorflow_datasets": "tfds",
    "av": "video",
    "tokenizers": "text",
}


def without_extra(what: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Name the extra that brings a module which is missing; an error of our own stays as it is.

    Args:
        what: needs the module.
        error: that told of it.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "gen_jax"):
        return error
    extra = _EXTRAS.get(module, "train")
    words = f"{what} needs {module}, of an extra: pip install 'gen-jax[{extra}]'"
    return ModuleNotFoundError(words, name=error.name)


def callable_as(package: str, module: str, name: str) -> None:
    """Let a package be called too, as a function that loads when it is first called.

    Args:
        package: its ``__name__``.
        module: of the function.
        name: of the function.
    """

    class Package(types.ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            try:
                function = getattr(importlib.import_module(module), name)
            except ModuleNotFoundError as error:
                raise without_extra(package, error) from error
            return function(*arguments, **options)

    sys.modules[package].__class__ = Package


def _places(stub: Path) -> dict[str, tuple[str, str]]:
    """Read where each name of a stub comes from: a module, and its name there."""
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.walk(ast.parse(stub.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
