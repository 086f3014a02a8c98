"""Assemble what the site is built of: guides, records, and a page of reference for each module.

``make docs`` runs it and then mkdocs. Links between guides, records, configs and tests stay as they
are in the repository; in docstrings, roles as ``:func:`gen_jax.ops.latents.slerp``` become links.
"""

import ast
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Rooms of the public face, and what each is.
ROOMS = {
    "launch.door": "From Python: load, train, show",
    "protocols": "Protocols",
    "codecs": "Codecs",
    "diffusion": "Diffusion",
    "ops": "Operations",
    "models": "Models",
    "nn": "Networks",
    "train": "Training",
    "evals": "Evaluation",
    "data": "Data",
    "patches": "Patches of one picture",
    "interop": "Weights of others",
}


def modules_of(room: str) -> list[Path]:
    """List the modules of a room that have public names."""
    place = ROOT / "gen_jax" / room.replace(".", "/")
    files = [place.with_suffix(".py")] if not place.is_dir() else sorted(place.rglob("*.py"))
    return [file for file in files if public_names(file)]


def public_names(file: Path) -> list[str]:
    """Read ``__all__``, where it is written out."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def dotted(file: Path) -> str:
    """Return the name of a module."""
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def linked(text: str, known: set[str], own: str) -> str:
    """Turn roles of docstrings into links, or, where nothing is known, into code."""

    def link(match: re.Match) -> str:
        name = match[2].lstrip("~")
        full = name if name.startswith("gen_jax.") else f"{own}.{name}"
        short = name.rpartition(".")[2]
        return f"[`{short}`][{full}]" if full in known else f"`{short}`"

    text = re.sub(r":(func|class|mod|data|meth):`(~?[\w.]+)`", link, text)
    return text.replace("``", "`")


def main(build: Path) -> None:
    """Assemble the site's sources in a folder."""
    pages, package = build / "pages", build / "package"
    shutil.rmtree(build, ignore_errors=True)
    for name in ("docs", "experiments", "configs", "tests", "gen_jax"):
        ignored = shutil.ignore_patterns("__pycache__", "*.npz", "old", "build.py")
        shutil.copytree(ROOT / name, pages / name, ignore=ignored)
    for page in pages.rglob("*.md"):
        text = re.sub(
            r"\]\((?:\.\./)+README\.md",
            "](" + "../" * (len(page.relative_to(pages).parts) - 1) + "index.md",
            page.read_text(),
        )
        page.write_text(text)
    gallery = (pages / "docs" / "gallery.md").read_text()
    front = re.sub(r'(\]\(|src=")(?!\.\./|http)', r"\1docs/", gallery)
    (pages / "index.md").write_text(front.replace("../", ""))
    (pages / "docs" / "gallery.md").unlink()

    files = {room: modules_of(room) for room in ROOMS}
    known = {f"{dotted(f)}.{n}" for own in files.values() for f in own for n in public_names(f)}
    known |= {dotted(file) for own in files.values() for file in own}
    shutil.copytree(
        ROOT / "gen_jax", package / "gen_jax", ignore=shutil.ignore_patterns("*.pyi", "__pycache__")
    )
    for file in (package / "gen_jax").rglob("*.py"):
        own = ".".join(file.relative_to(package).with_suffix("").parts)
        file.write_text(linked(file.read_text(), known, own))
    (pages / "api").mkdir()
    for room, own in files.items():
        parts = [f"# {ROOMS[room]}\n"]
        for file in own:
            parts.append(f"::: {dotted(file)}\n    options:\n      members:")
            parts += [f"        - {name}" for name in sorted(public_names(file))]
            parts.append("")
        (pages / "api" / f"{room.rpartition('.')[2]}.md").write_text("\n".join(parts))
    num = sum(len(public_names(file)) for own in files.values() for file in own)
    print(f"{num} public names on {len(files)} pages of reference in {pages}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs")
