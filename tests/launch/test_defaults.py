"""Defaults of fields, and saved configs that are older than some of them."""

import json

import pytest

from configs import common
from gen_jax.launch.configfile import from_json
from gen_jax.launch.defaults import completed, defaults_of
from gen_jax.launch.schema import families, frozen_changes


@pytest.mark.parametrize("family", families())
def test_defaults_are_those_of_the_configs(family):
    config = getattr(common, family)().to_dict()
    config["train"]["ema_decay"] = 0.999  # families with codebooks have a shorter memory there
    assert defaults_of(family) == config


def test_a_saved_config_of_an_earlier_version_is_completed(tmp_path):
    config = defaults_of("diffusion")
    config["data"]["shape"] = [32, 32, 3]
    del config["model"]["head_dim"], config["train"]["init_from"], config["diffusion"]["pairing"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found = from_json(path)
    assert found["model"]["head_dim"] == 0
    assert found["train"]["init_from"] == ""
    assert found["diffusion"]["pairing"] is False
    assert found["data"]["shape"] == [32, 32, 3]


def test_what_an_earlier_version_did_not_know_has_not_changed():
    new = defaults_of("diffusion")
    old = defaults_of("diffusion")
    del old["model"]["head_dim"]
    assert frozen_changes(old, new) == ([], [])
    new["model"]["head_dim"] = 8
    assert frozen_changes(old, new)[0] == ["model.head_dim: checkpoint 0, config 8"]


def test_what_is_there_is_kept_and_no_family_is_made_up():
    assert completed({"family": "vae", "model": {"beta": 3.0}})["model"]["beta"] == 3.0
    assert completed({"family": "unheard", "x": 1}) == {"family": "unheard", "x": 1}
    assert completed({"x": 1}) == {"x": 1}
