"""What an editor, mypy and pyright see of the public names, after both ways of installing."""

import inspect
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import gen_jax
from gen_jax import diffusion

ROOT = Path(__file__).parent.parent
PROGRAM = "\n".join(
    [
        "import gen_jax",
        *(f"reveal_type(gen_jax.{name})" for name in gen_jax.__all__),
        *(f"reveal_type(gen_jax.diffusion.{name})" for name in diffusion.__all__),
        "reveal_type(gen_jax.ops.quantizers.vector)",
        "reveal_type(gen_jax.nn.geometry.unet_faults)",
        "",
    ]
)


@pytest.fixture(scope="module")
def pythons(tmp_path_factory):
    """Make an environment of each kind: this one, installed editable, and one with a wheel."""
    folder = tmp_path_factory.mktemp("face")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gen_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder), str(source)], check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = folder.glob("gen_jax*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # What it depends on lies here.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "program.py").write_text(PROGRAM)
    return folder, {"editable": sys.executable, "wheel": str(folder / "venv/bin/python")}


def seen_by(checker, folder, python):
    """Give what a checker says of each line."""
    flags = {
        "mypy": ["--python-executable", python, "--cache-dir", str(folder / ".mypy")],
        "basedpyright": ["--pythonpath", python],
    }[checker]
    command = [sys.executable, "-m", checker, *flags, "program.py"]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    mark = r':(\d+):.*(?:Revealed type is|Type of "[\w.]+" is) "(.*)"$'
    return dict(re.findall(mark, out, re.MULTILINE)), out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", "wheel"])
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_every_public_name_has_its_type(checker, kind, pythons):
    folder, executables = pythons
    seen, out = seen_by(checker, folder, executables[kind])
    lines = PROGRAM.splitlines()
    assert len(seen) == len(lines) - 1, out[-2000:]
    for number, shown in seen.items():
        # An unknown name is Any to one of them and Unknown to the other.
        assert shown not in ("Any", "Unknown"), lines[int(number) - 1]
    place = dict(zip(lines[1:], seen.values(), strict=True))
    assert "latent_shape" in place["reveal_type(gen_jax.vae_model)"]
    assert "UNet" in place["reveal_type(gen_jax.UNet)"] or checker == "mypy"
    assert "num_codes: int" in place["reveal_type(gen_jax.ops.quantizers.vector)"]


@pytest.mark.slow
def test_a_wheel_trains_samples_and_evaluates(pythons, tmp_path):
    """By the names of its configs, from any folder, and with a config of one's own."""
    _, executables = pythons

    def run(*arguments):
        command = [executables["wheel"], "-P", "-m", "gen_jax", *arguments]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return made.stdout

    run("train", "--config", "ddpm_digits:tiny", "--workdir", "w")
    run("sample", "--workdir", "w", "--num", "2", "--steps", "2", "--out", "x.npz")
    run("evaluate", "--workdir", "w", "--num", "16", "--steps", "2")
    assert (tmp_path / "x.npz").exists()
    assert run("--version").startswith("gen_jax ")
    (tmp_path / "optax.py").write_text("raise ImportError")  # no library of ours
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(
        "from gen_jax.launch.config import defaults, variant_of\n"
        "def get_config(variant=''):\n"
        "    return variant_of(defaults('vae'), variant, source='digits', shape=(8, 8, 1))\n"
    )
    run("train", "--config", "own/mine.py:tiny", "--workdir", "v")


def test_a_definition_bears_the_name_it_is_exported_by():
    for package in (gen_jax, diffusion):
        for name in package.__all__:
            found = getattr(package, name)
            if inspect.isfunction(found) or inspect.isclass(found):
                assert found.__name__ == name


def test_modules_are_reached_from_the_top():
    code = "import gen_jax; print(gen_jax.ops.quantizers.vector, gen_jax.train.step)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "function vector" in out.stdout


def test_stubs_list_every_module():
    for package in ("ops", "nn", "models", "train"):
        files = {p.stem for p in (ROOT / "gen_jax" / package).glob("[!_]*.py")}
        assert set(getattr(gen_jax, package).__all__) == files
