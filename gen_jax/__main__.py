"""``python -m gen_jax`` is ``gen-jax``."""

from gen_jax.launch.cli.main import run

if __name__ == "__main__":
    run()
