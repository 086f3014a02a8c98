"""Imports go strictly downward, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gen_jax"

OPEN = {"typing", "protocols", "errors", "files", "reading"}
# What a room may import of ours, beside itself and floor 0.
ALLOWED = {
    "ops": set(),
    "nn": {"ops"},
    "diffusion": {"ops"},
    "data": set(),
    "interop": set(),
    "codecs": {"ops"},
    "models": {"nn", "diffusion", "ops"},
    "train": {"ops"},
    "evals": {"ops"},
    "launch": {"ops", "nn", "diffusion", "data", "interop", "codecs", "models", "train", "evals"},
    "__main__": {"launch"},
    "__init__": set(),
    **{name: set() for name in OPEN},
}


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    tree = ast.parse(path.read_text())
    names = {name for name in imported_modules(tree) if name.startswith("gen_jax.")}
    return {name.split(".")[1] for name in names}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_downward(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert rooms_imported(path) <= ALLOWED[room] | OPEN | {room}


def test_models_do_not_import_each_other():
    for path in (PACKAGE / "models").glob("[!_]*.py"):
        names = imported_modules(ast.parse(path.read_text()))
        assert not [name for name in names if name.startswith("gen_jax.models")]


def test_configs_import_nothing_of_ours_but_common():
    for path in (ROOT / "configs").glob("*.py"):
        names = set(imported_modules(ast.parse(path.read_text())))
        ours = {name for name in names if name.split(".")[0] in ("gen_jax", "configs")}
        assert ours <= {"configs.common"}


def test_only_launch_reads_config_objects():
    for path in PACKAGE.rglob("*.py"):
        if "launch" not in path.parts:
            assert "ml_collections" not in path.read_text()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gen_jax.diffusion", ("flax", "orbax", "grain", "tensorflow_datasets", "optax")),
        ("gen_jax.ops.keys", ("flax", "orbax", "grain", "tensorflow_datasets", "optax")),
        ("gen_jax", ("jax", "flax")),
        ("gen_jax.launch.configfile", ("jax", "flax", "grain")),
        ("gen_jax.launch.families.diffusion", ("jax", "flax")),
        ("gen_jax.launch.cli", ("jax", "flax")),
    ],
)
def test_what_must_be_light_is_light(module, absent):
    code = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert loaded.stdout.strip() == ""


def test_public_names_exist():
    import gen_jax

    for name in gen_jax.__all__:
        assert getattr(gen_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'vea'"):
        _ = gen_jax.vea
