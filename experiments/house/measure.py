"""How large the house is: lines and files of rooms, the longest functions, the fields of a model.

``python experiments/house/measure.py [REVISION ...]`` reads revisions from git, by default HEAD.
"""

import ast
import collections
import subprocess
import sys


def git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def sources(revision, folder):
    """Give the Python files below a folder, as ``{path: text}``."""
    names = git("ls-tree", "-r", revision, "--name-only", folder).split()
    return {n: git("show", f"{revision}:{n}") for n in names if n.endswith(".py")}


def functions(files):
    """List ``(lines without the docstring, lines, path, name)``, the longest first."""
    found = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                first = node.body[0]
                documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                said = first.end_lineno - first.lineno + 1 if documented else 0
                found.append((lines - said, lines, path, node.name))
    return sorted(found, reverse=True)


def fields_of_model(protocols):
    """Count the fields of ``Model``."""
    (model,) = (
        node
        for node in ast.parse(protocols).body
        if isinstance(node, ast.ClassDef) and node.name == "Model"
    )
    return sum(isinstance(node, ast.AnnAssign) for node in model.body)


def measure(revision):
    package, configs = sources(revision, "gen_jax"), sources(revision, "configs")
    print(git("log", "-1", "--format=%h  %s", revision).strip())
    print(f"  fields of Model: {fields_of_model(package['gen_jax/protocols.py'])}")
    rooms = collections.Counter()
    numbers = collections.Counter()
    for path, text in package.items():
        parts = path.split("/")[1:-1]
        room = "/".join(parts[:2] if parts[:1] == ["launch"] else parts[:1]) or "."
        rooms[room] += len(text.splitlines())
        numbers[room] += 1
    for room in sorted(rooms):
        print(f"  {room:18} {numbers[room]:4} files {rooms[room]:6} lines")
    whole = sum(rooms.values())
    launch = sum(n for room, n in rooms.items() if room.startswith("launch"))
    print(f"  launch {launch} of {whole} lines ({launch / whole:.0%})")
    lines = sum(len(text.splitlines()) for text in configs.values())
    print(f"  configs {lines} lines, {len(configs)} files")
    long = functions(package)
    for code, lines, path, name in long[:5]:
        print(f"  {name}: {code} lines of code, {lines} with its docstring  {path}")
    print(f"  functions of more than 70 lines of code: {sum(item[0] > 70 for item in long)}")


if __name__ == "__main__":
    for revision in sys.argv[1:] or ["HEAD"]:
        measure(revision)
