import shutil
from pathlib import Path

import pytest

from gen_jax.train import checkpoint
from gen_jax.train.integrity import inspect_leaves
from tests.reliability.job import write_images
from tests.reliability.saved import BATCH, one_device_engine


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("tiered")


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory):
    """Forty 8x8 PNG files in two classes."""
    root = tmp_path_factory.mktemp("images")
    write_images(root, 40)
    return root


@pytest.fixture(scope="module")
def engine():
    return one_device_engine()


@pytest.fixture(scope="module")
def target(engine):
    return engine.abstract(engine.put(BATCH))


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    """A work directory with steps 1 and 2, and their digests."""
    workdir = tmp_path_factory.mktemp("saved")
    state = engine.init(engine.key(0), engine.put(BATCH))
    known = {}
    with checkpoint.open_checkpoints(workdir / "checkpoints") as manager:
        for step in (1, 2):
            state, _ = engine.step(state, {}, engine.put(BATCH), engine.key(0))
            checkpoint.save(manager, state, {"config": {"seed": 0}}, wait=True)
            known[step] = {name: leaf.digest for name, leaf in inspect_leaves(state).items()}
    return workdir, known


@pytest.fixture
def copied(saved, tmp_path):
    def copy():
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        shutil.copytree(saved[0], tmp_path / "w")
        return tmp_path / "w"

    return copy
