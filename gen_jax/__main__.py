"""``python -m gen_jax`` is ``gen-jax``: the entry point of both. Loads nothing but the command."""

import sys

from gen_jax.lazy import without_extra

__all__ = ["run"]


def run() -> None:
    """Run the command line, or say in one line which extra it needs."""
    try:
        from gen_jax.launch.cli.main import run as run_command
    except ModuleNotFoundError as error:
        print(f"gen_jax: {without_extra('the command line', error)}", file=sys.stderr)
        sys.exit(2)
    run_command()


if __name__ == "__main__":
    run()
