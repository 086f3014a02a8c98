"""The allocator that a program begins anew with, and what ``gen-jax doctor`` says of a machine."""

import os
import subprocess
import sys

import pytest

from gen_jax.launch.cli import allocator

HUGE = "glibc.malloc.hugetlb=1"


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Record what would be executed, on a machine that has all that is needed."""
    made = []
    pages = tmp_path / "enabled"
    pages.write_text("always [madvise] never\n")
    monkeypatch.setattr(allocator, "_PAGES", pages)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(allocator.os, "execve", lambda *call: made.append(call))
    return made, pages


def test_a_program_begins_anew_with_the_same_line(begun):
    made, _ = begun
    allocator.use_huge_pages({"A": "1"}, ["python", "-m", "gen_jax", "train"])
    line = [sys.executable, "-m", "gen_jax", "train"]
    assert made == [(sys.executable, line, {"A": "1", "GLIBC_TUNABLES": HUGE})]
    allocator.use_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, ["python", "x"])
    assert made[1][2]["GLIBC_TUNABLES"] == f"glibc.malloc.check=1:{HUGE}"
    assert "huge pages" in allocator.allocator(made[1][2])


def test_it_does_so_once_and_only_where_it_helps(begun, monkeypatch):
    made, pages = begun
    allocator.use_huge_pages({"GLIBC_TUNABLES": HUGE}, ["python", "x"])
    allocator.use_huge_pages({allocator.SWITCH: "system"}, ["python", "x"])
    assert allocator.allocator({allocator.SWITCH: "system"}).endswith("(GEN_JAX_MALLOC=system)")
    pages.write_text("always madvise [never]\n")
    allocator.use_huge_pages({}, ["python", "x"])
    pages.write_text("[always] madvise never\n")
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.31"))
    allocator.use_huge_pages({}, ["python", "x"])
    assert "glibc 2.35 or newer" in allocator.allocator({})
    assert not made
    assert allocator.allocator({"LD_PRELOAD": "/usr/lib/libtcmalloc.so.4"}).startswith("tcmalloc")


@pytest.mark.slow
def test_the_doctor_names_what_is_there_and_what_would_help(tmp_path):
    def run(**env):
        line = [sys.executable, "-m", "gen_jax", "doctor"]
        kept = {name: x for name, x in os.environ.items() if name != "GLIBC_TUNABLES"}
        kept |= {"XDG_CACHE_HOME": str(tmp_path), **env}
        kept.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run(line, capture_output=True, text=True, env=kept, check=True)
        return dict(x.split(maxsplit=1) for x in done.stdout.splitlines() if x), done.stdout

    found, _ = run()
    assert {"gen_jax", "Python", "libraries", "devices", "processor", "allocator"} <= set(found)
    assert found["devices"].startswith("1 cpu")
    assert str(tmp_path) in found["cache"]
    if allocator._obstacle(os.environ) is None:
        assert found["allocator"] == "glibc's, in huge pages"
    _, text = run(GEN_JAX_MALLOC="system")
    assert "the system's (GEN_JAX_MALLOC=system)" in text
    assert "- The allocator has no huge pages" in text
