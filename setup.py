"""What pyproject.toml cannot say: a wheel ships the configs inside the package.

A checkout, and so an editable install, has them beside it. (A mapping of packages would do the same
and make editable installs an import hook, which type checkers cannot follow.)
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copy ``configs/*.py`` to ``gen_jax/shipped/configs``."""

    def run(self) -> None:
        """Build, and copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "gen_jax" / "shipped" / "configs"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path("configs").glob("*.py")):
            shutil.copy(path, target)


setup(cmdclass={"build_py": BuildWithConfigs})
