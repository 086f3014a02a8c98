"""The door for Python: what the command line does, as functions of arrays.

run = gen_jax.load("runs/digits")
images = run.sample(16, label=3, seed=0)
run = gen_jax.train("vae_mnist", data=x_train, workdir="runs/v", steps=2000)
gen_jax.show(images)
"""

import base64
import functools
import html
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from gen_jax.errors import ConfigError
from gen_jax.files import film_bytes, png_bytes, write_file
from gen_jax.launch.commands.train import run_training
from gen_jax.launch.config.files import find_config, finish_config, load_config
from gen_jax.launch.config.schema import nearest
from gen_jax.launch.runs.chain import with_stages
from gen_jax.launch.runs.restore import Trained, load_trained
from gen_jax.launch.runs.resume import Resuming
from gen_jax.launch.runs.workdir import CLASSES
from gen_jax.launch.sampling.draw import (
    Draw,
    decode as decode_latents,
    draw_prior,
    draw_samples,
    encode as encode_images,
    interpolate as lay_ways,
)
from gen_jax.launch.sampling.inputs import OF_CLIP, read_texts
from gen_jax.launch.sampling.request import as_flags
from gen_jax.ops import keys as rng
from gen_jax.ops.rows import map_rows
from gen_jax.pictures import film, grid
from gen_jax.protocols import Input, Latents, Option, Sampler
from gen_jax.typing import PyTree

__all__ = ["Film", "Run", "load", "show", "train"]

_FRAME_MS = 120


def load(workdir: str | Path) -> "Run":
    """Load a trained model from its work directory, with all of its stages.

    Args:
        workdir: of the training run, which may still go on.

    Returns:
        The model as of its newest good checkpoint, with averaged weights.

    Raises:
        CheckpointError: if there is none, or it is damaged.

    Example:
        >>> run = gen_jax.load("runs/digits")  # doctest: +SKIP
        >>> images = run.sample(16, seed=0)  # doctest: +SKIP
    """
    place = Path(workdir).expanduser()
    return Run(with_stages(load_trained(place), place), place)


def train(
    config: str | Path | Mapping[str, Any] | ConfigDict,
    data: Any = None,
    workdir: str | Path | None = None,
    *,
    steps: int | None = None,
    restart: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> "Run":
    """Train a model, or go on with training, and load it.

    The same as ``gen-jax train``: progress on the terminal, checkpoints, pictures and metrics in
    the work directory. What is there already is gone on with.

    Args:
        config: name of one that comes with gen_jax (``"vae_mnist"``, ``"ddpm_digits:tiny"``), a
            file, or a config itself.
        data: images uint8 [N, H, W, C] or [N, H, W]; a pair of these and labels [N]; a mapping with
            ``x_train`` and perhaps ``y_train``, ``captions_train``, ``x_test``, ...; a list of
            batches of images; or a source as ``data.source`` names it. Arrays are kept in the work
            directory, as ``data.npz``. By default what the config says.
        workdir: where everything about the run is kept; by default ``runs/NAME``.
        steps: to train, in all.
        restart: begin anew; what is there is put away.
        overrides: fields of the config by dotted name.

    Raises:
        GenJaxError: as the command line does.

    Example:
        >>> run = gen_jax.train("vae_mnist", data=x_train, steps=2000)  # doctest: +SKIP
    """
    named = isinstance(config, str | Path)
    name = Path(str(config).partition(":")[0]).stem if named else "run"
    own: Any = config
    if named:
        find_config(str(config).partition(":")[0])  # before anything is written
    place = Path(workdir).expanduser() if workdir is not None else Path("runs") / name
    changes = dict(overrides or {})
    if steps is not None:
        changes["train.steps"] = steps
    if data is not None:
        changes = {**_as_source(data, place), **changes}
    lines = [f"{key}={value}" for key, value in changes.items()]
    if named:
        whole = load_config(str(config), lines)
    else:
        whole = finish_config(ConfigDict(dict(own)), lines)
    run_training(whole, place, Resuming(from_scratch=restart))
    return load(place)


def _as_source(data: Any, workdir: Path) -> dict[str, Any]:
    """Keep arrays in a work directory; return the fields that name them."""
    if isinstance(data, str | Path):
        return {"data.source": str(data)}
    if isinstance(data, Mapping):
        arrays = {str(name): np.asarray(x) for name, x in data.items()}
    elif isinstance(data, tuple):
        images, labels = data
        arrays = {"x_train": np.asarray(images), "y_train": np.asarray(labels)}
    elif isinstance(data, list):
        arrays = {"x_train": np.concatenate([np.asarray(batch) for batch in data])}
    else:
        arrays = {"x_train": np.asarray(data)}
    if "x_train" not in arrays:
        raise ConfigError(f"data: no x_train; found {', '.join(arrays) or 'nothing'}")
    images = _checked_images("data", arrays["x_train"])
    arrays["x_train"] = images
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "data.npz"
    content = buffer.getvalue()
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)
    return {"data.source": f"npz:{path.resolve()}", "data.shape": tuple(images.shape[1:])}


def _checked_images(name: str, images: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Check that images are what they should be, in words.

    Raises:
        ConfigError: naming what was given and what is required.
    """
    array = np.asarray(images)
    if array.dtype != np.uint8:
        hint = {
            "f": "; multiply by 255 and round, if they are from 0 to 1",
            "b": "; multiply by 255",
            "u": "; divide by 257, if they are of 16 bits",
        }.get(array.dtype.kind, "")
        raise ConfigError(f"{name}: got {array.dtype} images; uint8, 0 to 255, is required{hint}")
    dims = 3 if shape is None else len(shape)
    if array.ndim == dims and (shape is None or shape[-1] == 1 or array.shape == shape):
        # One image, or gray ones without their channel.
        array = array[None] if array.shape == shape else array[..., None]
    wanted = "[N, H, W, C]" if shape is None else f"[N, {', '.join(map(str, shape))}]"
    if array.ndim != dims + 1 or (shape is not None and array.shape[1:] != shape):
        raise ConfigError(f"{name}: got {list(array.shape)}; {wanted} is required")
    return array


class Run:
    """A trained model: what it can do, with arrays of the host in and out.

    Programs are compiled once a shape and kept, so that a second call is fast.
    """

    def __init__(self, trained: Trained, workdir: Path) -> None:
        self.trained = trained
        self.workdir = workdir

    @property
    def config(self) -> Mapping[str, Any]:
        """Return the config that it was trained with."""
        return self.trained.config

    @property
    def family(self) -> str:
        """Return the family of the model."""
        return str(self.trained.config["family"])

    @property
    def step(self) -> int:
        """Return the steps that its weights were trained."""
        return self.trained.step

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one image, (height, width, channels); of a film frames before."""
        return tuple(self.trained.config["data"]["shape"])

    @property
    def options(self) -> Mapping[str, Option]:
        """Return what sampling can be asked for, by name: default, range and meaning."""
        sampler = self.trained.experiment.model.sampler
        return {} if sampler is None else dict(sampler.options)

    @property
    def inputs(self) -> Mapping[str, Input]:
        """Return what the model is told beside images, by name."""
        return dict(self.trained.experiment.model.inputs)

    @property
    def num_params(self) -> int:
        """Return the number of its trained parameters."""
        return sum(x.size for x in jax.tree.leaves(self.trained.weights.params))

    def sample(
        self, num: int = 16, *, seed: int = 0, batch_size: int = 128, **asked: Any
    ) -> np.ndarray:
        """Draw samples; sample i depends on the seed and on i alone.

        Args:
            num: how many.
            seed: names them.
            batch_size: at once.
            asked: what the model is told (``label=3``, ``prompt="a red circle"``, ``image=...``),
                one for all or one for each, and options of its sampler (``steps=50``,
                ``guidance=2.0``). Without a label all classes come in turn.

        Returns:
            uint8 [num, H, W, C]; of films [num, F, H, W, C].

        Raises:
            ConfigError: for what the model does not know, or what does not go together.
        """
        sampler = self._sampler()
        options, told = self._sort(asked, sampler.options)
        cond = self._cond(told, num, needed=True)
        self._refuse(sampler.faults(options, tuple(told)))
        draw = Draw(seed, options, cond, batch_size)
        model, weights = self.trained.experiment.model, self.trained.weights
        return draw_samples(model, weights, draw, self.trained.mesh, num)

    def encode(self, images: Any, **told: Any) -> Any:
        """Find the latents of images; random codes are replaced by their means.

        Args:
            images: uint8 [N, H, W, C].
            told: what the model is told of each, and options.

        Returns:
            An array [N, ...], or a mapping of arrays.
        """
        latents = self._latents()
        if latents.encode is None:
            raise ConfigError(f"encode: family {self.family!r} has no way back to latents")
        images = _checked_images("images", images, self.shape)
        options, told = self._sort(told, latents.options)
        draw = Draw(0, options, self._cond(told, len(images)))
        model, weights = self.trained.experiment.model, self.trained.weights
        return encode_images(model, weights, draw, images, self.trained.mesh)

    def decode(self, z: Any, **told: Any) -> np.ndarray:
        """Decode latents to images, uint8 [N, H, W, C].

        Args:
            z: as :meth:`encode` gives them.
            told: what the model is told of each, and options.
        """
        latents = self._latents()
        options, told = self._sort(told, latents.options)
        num = len(jax.tree.leaves(z)[0])
        draw = Draw(0, {**options, **latents.undo}, self._cond(told, num), z=z)
        return decode_latents(self.trained.experiment.model, self.trained.weights, draw)

    def reconstruct(self, images: Any, **told: Any) -> np.ndarray:
        """Encode images and decode them again, uint8 [N, H, W, C]."""
        return self.decode(self.encode(images, **told), **told)

    def interpolate(
        self, first: Any = None, last: Any = None, *, steps: int = 8, seed: int = 0, **told: Any
    ) -> np.ndarray:
        """Go from images to images through latents, along great circles.

        Args:
            first: uint8 [N, H, W, C], or nothing for latents drawn from the prior.
            last: likewise.
            steps: points of each way, both ends included.
            seed: of what is drawn.
            told: what the model is told, and options.

        Returns:
            uint8 [N, steps, H, W, C].
        """
        latents = self._latents()
        if (first is None) != (last is None):
            raise ConfigError("interpolate: both ends, or none, are required")
        if first is not None:
            ends = [self.encode(x, **told) for x in (first, last)]
        elif latents.prior is None:
            raise ConfigError(f"interpolate: family {self.family!r} has no prior; images, please")
        else:
            model = self.trained.experiment.model
            both = draw_prior(model, seed=seed, num=8)
            ends = [both[:4], both[4:]]
        if latents.num_codes is not None:
            raise ConfigError("interpolate: codes are whole numbers, between which nothing lies")
        options, told = self._sort(told, latents.options)
        num = len(ends[0])
        draw = Draw(0, {**options, **latents.undo}, self._cond(told, num))
        ways = lay_ways(draw, ends[0], ends[1], steps)
        made = decode_latents(self.trained.experiment.model, self.trained.weights, ways)
        return made.reshape(num, steps, *made.shape[1:])

    def log_prob(self, images: Any, *, seed: int = 0, **told: Any) -> np.ndarray:
        """Return log p of images in nats, or the bound on it, float [N].

        Args:
            images: uint8 [N, H, W, C].
            seed: of what a bound draws.
            told: what the model is told of each, and options of its density.
        """
        density = self.trained.experiment.model.density
        if density is None:
            raise ConfigError(f"log_prob: family {self.family!r} has no density")
        images = _checked_images("images", images, self.shape)
        options, told = self._sort(told, density.options)
        rows = {"image": images, **self._cond(told, len(images))}
        key, weights = jax.random.key(seed), self.trained.weights
        run = _density(density.log_prob, tuple(sorted(options.items())))

        def make(batch: Mapping[str, Any], first: np.int32) -> jax.Array:
            return run(
                weights, batch, rng.per_example(key, jnp.asarray(first), len(batch["image"]))
            )

        return np.asarray(map_rows(make, rows, 256))

    def translate(self, images: Any, **asked: Any) -> np.ndarray:
        """Make an image of each image, uint8 [N, H, W, C].

        Args:
            images: uint8 [N, H, W, C], that the model is told.
            asked: options, as ``direction="ba"``.
        """
        from gen_jax.launch.commands.translate import told_image

        name = told_image(self.trained)
        return self.sample(len(np.asarray(images)), **{name: images}, **asked)

    def _sampler(self) -> Sampler:
        sampler = self.trained.experiment.model.sampler
        if sampler is None:
            raise ConfigError(f"sample: family {self.family!r} does not generate")
        return sampler

    def _latents(self) -> Latents:
        latents = self.trained.experiment.model.latents
        if latents is None:
            raise ConfigError(f"family {self.family!r} has no latents")
        return latents

    def _sort(
        self, asked: Mapping[str, Any], options: Mapping[str, Option]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell options from what the model is told, and check the options."""
        inputs = self._words()
        chosen, told = {}, {}
        for name, value in asked.items():
            if value is None:
                continue
            if name in inputs:
                told[inputs[name]] = value
            elif name in options:
                option = options[name]
                given = option.kind(value) if option.kind is float else value
                if not isinstance(given, option.kind) or not option.ok(given):
                    raise ConfigError(f"{name}: got {value!r}; {option.accepts} is required")
                chosen[name] = given
            else:
                known = [*inputs, *options]
                raise ConfigError(
                    f"{name}: unknown{nearest(name, known)}; {', '.join(known) or 'nothing'} "
                    "can be said"
                )
        return chosen, told

    def _words(self) -> dict[str, str]:
        """Return the names of inputs, by the words that a caller has for them."""
        inputs = self.trained.experiment.model.inputs
        names = {name: name for name in inputs}
        if "no_prompt" in inputs:
            names["negative"] = "no_prompt"
        return names

    def _cond(
        self, told: Mapping[str, Any], num: int, *, needed: bool = False
    ) -> dict[str, np.ndarray]:
        """Make a row for each sample of what the model is told."""
        cond = {}
        for name, given in self.trained.experiment.model.inputs.items():
            if name in told:
                cond[name] = self._rows(name, given, told[name], num)
            elif given.kind == "label" and given.needed:
                assert given.size is not None
                cond[name] = (np.arange(num) % given.size).astype(np.int32)
            elif given.needed and needed:
                raise ConfigError(f"{name}: is required by this model: {given.help or given.kind}")
        return cond

    def _rows(self, name: str, given: Input, value: Any, num: int) -> np.ndarray:
        if given.kind == "label":
            return self._labels(name, given, value, num)
        if given.kind == "tokens":
            texts = [value] if isinstance(value, str) else [str(text) for text in value]
            trained = self.trained
            known = trained.target_tokenizer if name in OF_CLIP else trained.tokenizer
            assert known is not None
            rows = read_texts(texts, known, given.shape[0], len(texts))
        elif given.kind == "image":
            rows = _checked_images(name, value, given.shape or self.shape)
        else:
            rows = np.asarray(value, np.float32)
            if given.kind == "mask" and rows.ndim == 2:
                rows = rows[None, ..., None]
        if len(rows) not in (1, num):
            raise ConfigError(f"{name}: got {len(rows)}; 1 or {num} are required")
        return np.repeat(rows, num, axis=0) if len(rows) == 1 else rows

    def _labels(self, name: str, given: Input, value: Any, num: int) -> np.ndarray:
        values = [value] if isinstance(value, str | int | np.integer) else list(value)
        path = self.workdir / CLASSES
        names = json.loads(path.read_text()) if path.exists() else []
        size = given.size or 0
        numbers = [names.index(x) if isinstance(x, str) and x in names else x for x in values]
        for number in numbers:
            if not isinstance(number, int | np.integer) or not 0 <= number < size:
                known = f"; or one of {', '.join(names)}" if names else ""
                raise ConfigError(f"{name}: got {number!r}; 0 to {size - 1} is required{known}")
        if len(numbers) not in (1, num):
            raise ConfigError(f"{name}: got {len(numbers)}; 1 or {num} are required")
        rows = np.array(numbers, np.int32)
        return np.repeat(rows, num) if len(rows) == 1 else rows

    def _refuse(self, faults: Mapping[str, str]) -> None:
        for name, what in faults.items():
            raise ConfigError(f"{name}: {as_flags(what).replace('--', '')}")

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return (
            f"Run({str(self.workdir)!r}: {self.family}, step {self.step:,}, {size}, "
            f"{self.num_params:,} parameters)"
        )

    def _repr_html_(self) -> str:
        facts = {
            "family": self.family,
            "step": f"{self.step:,}",
            "images": "x".join(map(str, self.shape)),
            "parameters": f"{self.num_params:,}",
            "told": ", ".join(self.inputs) or "nothing",
            "weights": self.trained.digest,
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(x)}</td></tr>" for name, x in facts.items()
        )
        pictures = sorted((self.workdir / "images").glob("*_samples.png"))
        shown = ""
        if pictures:
            data = base64.b64encode(pictures[-1].read_bytes()).decode()
            shown = f'<img src="data:image/png;base64,{data}" alt="last samples">'
        title = html.escape(str(self.workdir))
        return f"<div><b>{title}</b><table>{rows}</table>{shown}</div>"


@functools.lru_cache(maxsize=16)
def _density(log_prob: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Any:
    def run(weights: PyTree, batch: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        return jnp.asarray(log_prob(weights, batch, keys, **dict(options)).nats)

    return jax.jit(run)


class Film:
    """Films side by side, as a notebook shows them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.data).decode()
        return f'<img src="data:image/gif;base64,{data}" alt="films">'


def show(
    images: Any, out: str | Path | None = None, columns: int | None = None
) -> Image.Image | Film:
    """Arrange images in a grid, which a notebook shows; films play side by side.

    Args:
        images: uint8 [N, H, W, C] or [N, H, W], one image, or films [N, F, H, W, C].
        out: a file to write too: PNG, or of films GIF.
        columns: images a row; by default near to a square.

    Returns:
        A picture of Pillow, or a :class:`Film`.

    Raises:
        ConfigError: if they are no such images.
    """
    array = np.asarray(images)
    if array.ndim == 5:
        data = film_bytes(film(_checked_images("images", array, array.shape[1:])), _FRAME_MS)
        if out is not None:
            write_file(Path(out).expanduser(), data)
        return Film(data)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4)):
        array = array[None]
    made = grid(_checked_images("images", array), columns)
    if out is not None:
        write_file(Path(out).expanduser(), png_bytes(made))
    return Image.fromarray(made[..., 0] if made.shape[-1] == 1 else made)
