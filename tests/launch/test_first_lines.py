"""The first lines a newcomer types: configs by name, runs gone on with, samples as files."""

import json

import numpy as np
import pytest
from PIL import Image

from gen_jax.launch.cli.main import main
from gen_jax.launch.config.files import load_config, shipped_configs


def test_configs_are_listed_shown_and_copied(tmp_path, capsys):
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in shipped_configs())
    assert main(["configs", "vae_mnist"]) == 0
    assert "gen-jax train --config vae_mnist" in capsys.readouterr().out
    own = tmp_path / "elsewhere" / "my.py"
    assert main(["configs", "vae_mnist", f"--out={own}"]) == 0
    assert load_config(f"{own}:tiny", []) == load_config("vae_mnist:tiny", [])
    assert main(["configs", "vae_mnist", "--out", str(own)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["configs", "vea_mnist"]) == 2
    assert "one of these is required" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_bare_line_goes_on_with_a_run_and_a_saved_config_repeats_it(tmp_path, capsys):
    work, again = tmp_path / "work", tmp_path / "again"
    assert main(["train", "--workdir", str(work)]) == 2
    assert "--config" in capsys.readouterr().err
    first = ["train", "--config", "ae_mnist:tiny", "--workdir", str(work)]
    assert main([*first, "--config.seed=3"]) == 0
    line = ["train", "--config", str(work / "config.json"), "--workdir", str(again)]
    assert main(line) == 0
    assert "starting" in capsys.readouterr().out
    made = []
    for place in (work, again):
        out = tmp_path / f"{place.name}.npz"
        assert main(["sample", "--workdir", str(place), "--num=4", "--out", str(out)]) == 0
        made.append(np.load(out)["images"])
    np.testing.assert_array_equal(*made)
    folder = tmp_path / "pictures"
    assert main(["sample", "--workdir", str(work), "--num=4", "--out", f"{folder}/"]) == 0
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{i:06}.png" for i in range(4)]
    with Image.open(files[2]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), made[0][2, ..., 0])
    capsys.readouterr()
    assert main(["train", "--workdir", str(work), "--config.train.steps=3"]) == 0
    assert "resuming at step 2" in capsys.readouterr().out
    line = ["sample", "--workdir", str(work), "--num=4", "--arr_0"]
    assert main([*line, "--out", str(tmp_path / "adm.npz")]) == 0
    with np.load(tmp_path / "adm.npz") as arrays:
        assert arrays["arr_0"].shape == (4, 8, 8, 1)
    assert main(["sample", "--workdir", str(work), "--out", str(tmp_path / "a.jpg")]) == 2
    assert "a folder's ending in /" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_held_out_losses_and_the_learning_rate_are_among_the_metrics(tmp_path, capsys):
    work = tmp_path / "work"
    line = ["train", "--config", "aae_mnist:tiny", "--workdir", str(work)]
    line += ["--config.train.validate_every=2", "--config.train.steps=4"]
    line += ["--config.optimizer.disc.learning_rate=0.5", "--config.optimizer.decay=constant"]
    assert main([*line, "--config.optimizer.warmup_steps=2"]) == 0
    assert "step 2: validation/" in capsys.readouterr().out
    lines = [json.loads(text) for text in (work / "metrics.jsonl").read_text().splitlines()]
    held_out = [x for x in lines if any(name.startswith("validation/") for name in x)]
    assert [x["step"] for x in held_out] == [2, 4]
    names = {name for name in held_out[0] if name.startswith("validation/")}
    assert len(names) > 1  # of each player
    assert all(np.isfinite(held_out[0][name]) for name in names)
    rates = {x["step"]: x["disc/learning_rate"] for x in lines}
    assert rates == {1: 0.25, 2: 0.5, 3: 0.5, 4: 0.5}
