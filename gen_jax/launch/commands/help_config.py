"""``gen-jax help-config``: every field of a family's config, with what it means. Loads no JAX."""

import textwrap
from collections.abc import Iterator

from gen_jax.errors import ConfigError
from gen_jax.launch.config.fields import Field
from gen_jax.launch.config.schema import families, fields_of, guess

__all__ = ["run_help_config"]


def run_help_config(family: str | None) -> None:
    """Print the fields of a family's config by section; without one, the families.

    Raises:
        ConfigError: for an unknown family.
    """
    if family is None:
        print("gen-jax help-config FAMILY lists the fields of a family's config. Families:")
        print(textwrap.indent("\n".join(families()), "  "))
        return
    if family not in families():
        near = guess(family, families())
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(
            f"{family!r}: no family; one of {', '.join(families())} is required{hint}"
        )
    print(f"A config of family {family!r}: field = default: what it means (what it accepts).")
    print("A field marked * may not change once a run has a checkpoint.")
    print("\n".join(_lines(family)))


def _lines(family: str) -> Iterator[str]:
    section = None
    fields = fields_of(family)
    for name in sorted(fields, key=lambda name: ("." in name, name.rpartition(".")[0])):
        if name == "family":
            continue
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            yield f"\n{section}" if section else ""
        yield _line(name, fields[name])


def _line(name: str, field: Field) -> str:
    mark = "*" if field.change == "frozen" else " "
    accepts = f"{field.accepts}, or None" if field.optional else field.accepts
    text = f"{name} = {field.default!r}: {field.doc} ({accepts})"
    return textwrap.fill(
        text, 100, initial_indent=f"{mark} ", subsequent_indent=" " * 6, break_on_hyphens=False
    )
