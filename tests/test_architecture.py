"""Imports go strictly downward, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gen_jax"

OPEN = {"typing", "protocols", "errors", "files", "reading", "pictures", "lazy"}
BELOW = {
    "ops",
    "nn",
    "diffusion",
    "data",
    "interop",
    "codecs",
    "models",
    "train",
    "evals",
    "patches",
}
# What a room may import of ours, beside itself and floor 0.
ALLOWED = {
    "ops": set(),
    "nn": {"ops"},
    "diffusion": {"ops"},
    "data": set(),
    "interop": set(),
    "codecs": {"ops"},
    "patches": set(),
    "models": {"nn", "diffusion", "ops"},
    "train": {"ops"},
    "evals": {"nn", "ops", "interop", "data"},  # networks of features, and scenes
    "launch.jobs": set(),
    "launch.config": {"nn", "diffusion", "ops", "models", "train"},  # their rules, without JAX
    "launch.build": {"launch.config", *BELOW},
    "launch.report": {"launch.config", "launch.runs"},
    "launch.runs": {"launch.build", "launch.config", "launch.jobs", *BELOW},
    "launch.sampling": {"launch.runs", "launch.build", "launch.config", *BELOW},
    "launch.planning": {"launch.runs", "launch.build", "launch.config", *BELOW},
    "launch.commands": {
        *("launch.sampling", "launch.planning", "launch.runs", "launch.build", "launch.config"),
        *("launch.jobs", "launch.report"),
        *BELOW,
    },
    "launch.cli": {
        *("launch.commands", "launch.sampling", "launch.planning", "launch.runs"),
        *("launch.build", "launch.config", "launch.jobs", "launch.report"),
        *("launch.door", "launch.serve"),
        *("data", "train", "patches"),
    },
    # For Python what the command line is for a terminal.
    "launch.door": {
        *("launch.commands", "launch.sampling", "launch.runs", "launch.config"),
        "ops",
    },
    "launch.serve": {"launch.door"},
    "launch.__init__": set(),
    "__main__": {"launch.cli"},
    "__init__": set(),
    **{name: set() for name in OPEN},
}


def room_of(parts):
    """Give a room: the first part of a module's name, of launch the first two."""
    return ".".join(parts[:2]) if parts[0] == "launch" else parts[0]


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
    """Give the modules of ours that a file imports, wherever in it that stands."""
    names = {n for n in imported_modules(ast.parse(path.read_text())) if n.startswith("gen_jax.")}
    return {tuple(name.split(".")[1:]) for name in names}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_downward(path):
    parts = [part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts]
    room = room_of(parts)
    imported = {room_of(parts) for parts in ours(path)}
    assert imported <= ALLOWED[room] | OPEN | {room}
    if room == "launch.config":  # of the floors below only what loads no JAX
        light = {"rules", "geometry"}
        below = {parts for parts in ours(path) if parts[0] in BELOW}
        assert all(light & set(parts) for parts in below)


def test_no_files_import_each_other_in_a_circle():
    files = {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p
        for p in PACKAGE.rglob("*.py")
    }

    def target(parts):
        while parts and ".".join(parts) not in files:
            parts = parts[:-1]
        return ".".join(parts)

    graph = {name: {target(parts) for parts in ours(path)} - {name, ""} for name, path in
             files.items()}  # fmt: skip
    done, way = set(), []

    def walk(name):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        way.append(name)
        for other in sorted(graph[name]):
            walk(other)
        way.pop()
        done.add(name)

    for name in graph:
        walk(name)


# The commands' top level reads flags, one after another.
LONG = {"_train", "_sample"}


def test_no_function_is_longer_than_a_hundred_lines():
    long = [
        (str(path.relative_to(PACKAGE)), node.name, node.end_lineno - node.lineno + 1)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and _code_lines(node) > 100
    ]
    assert not [entry for entry in long if entry[1] not in LONG], long


def _code_lines(node):
    """Count a function's lines without its docstring."""
    first = node.body[0]
    doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if doc else 0)


def test_models_do_not_import_each_other():
    for path in (PACKAGE / "models").glob("[!_]*.py"):
        names = imported_modules(ast.parse(path.read_text()))
        others = {name for name in names if name.startswith("gen_jax.models")}
        assert all(name.startswith("gen_jax.models.rules.") for name in others)


def test_configs_import_nothing_of_ours_but_the_config_room():
    for path in (ROOT / "configs").glob("*.py"):
        names = set(imported_modules(ast.parse(path.read_text())))
        ours = {name for name in names if name.split(".")[0] in ("gen_jax", "configs")}
        assert ours <= {"gen_jax.launch.config.defaults", "gen_jax.launch.config.variant_of"}


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
        ("gen_jax.launch.config.files", ("jax", "flax", "grain")),
        ("gen_jax.launch.config.families.diffusion", ("jax", "flax")),
        ("gen_jax.launch.cli.main", ("jax", "flax")),
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
