"""``gen-jax configs``: the experiments that come with the package, listed and copied. No JAX."""

import ast
import textwrap
from pathlib import Path

from gen_jax.errors import ConfigError
from gen_jax.files import write_file
from gen_jax.launch.config.files import find_config, shipped_configs

__all__ = ["run_configs"]


def run_configs(name: str | None, out: Path | None) -> None:
    """List the shipped configs with one line each, show one, or copy it to edit.

    Args:
        name: of one; None for all.
        out: file to copy it to; None to print what it says of itself.

    Raises:
        ConfigError: if there is no such config, or the file is there already.
    """
    if name is None:
        configs = shipped_configs()
        width = max(map(len, configs))
        for known, path in configs.items():
            first = _words(path).partition("\n")[0]
            print(
                textwrap.fill(
                    first,
                    100,
                    initial_indent=f"{known:<{width}}  ",
                    subsequent_indent=" " * (width + 2),
                )
            )
        print("\ngen-jax configs NAME says more, and --out FILE.py copies one to edit.")
        return
    path = find_config(name)
    if out is None:
        print(_words(path))
        print(f"\nin {path}; gen-jax train --config {name} --workdir runs/{path.stem}")
        return
    if out.exists():
        raise ConfigError(f"--out: {out}: is there already; a new name is required")
    write_file(out, path.read_bytes())
    print(f"{out}: copied; gen-jax train --config {out} --workdir runs/{out.stem}")


def _words(path: Path) -> str:
    """Read what a config says of itself, without running it."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""
