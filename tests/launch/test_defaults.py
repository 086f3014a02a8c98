"""Defaults of fields, and saved configs that are older than some of them."""

import json

import pytest

from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.files import from_json
from gen_jax.launch.config.schema import (
    RENAMED,
    completed,
    defaults_of,
    families,
    fields_of,
    frozen_changes,
    nested,
)


def test_a_family_has_its_own_defaults_of_common_fields():
    assert defaults_of("vqvae")["train"]["ema_decay"] == 0.99
    assert defaults_of("vae")["train"]["ema_decay"] == 0.999


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_fields_that_had_another_name_keep_loading(old, new, tmp_path):
    family = next(name for name in families() if new in fields_of(name))
    values = flatten(defaults_of(family))
    values |= {"data.shape": [32, 32, 3]}
    now = values.pop(new)
    other = next(x for x in ("none", "threshold", True) if fields_of(family)[new].takes(x))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(nested({**values, old: other})))
    found = flatten(from_json(path))
    assert found[new] == other
    assert old not in found
    frozen, _ = frozen_changes(nested({**values, old: now}), nested({**values, new: now}))
    assert frozen == []


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
