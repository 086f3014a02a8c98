"""Commands over images that a user has: translating, ranking, and drawing from their patches."""

from pathlib import Path

from absl import flags

from gen_jax.errors import ConfigError
from gen_jax.launch.cli.flags import (
    check_writable,
    load_alone,
    model_flags,
    need,
    parse,
    parse_known,
)

__all__ = ["patches", "rank", "translate"]


def translate(arguments: list[str]) -> int:
    """Run ``gen-jax translate``."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    flags.DEFINE_string("from", None, "a folder of pictures", flag_values=values)
    flags.DEFINE_string("out", None, "a folder, begun or new", flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "pictures at once", flag_values=values, lower_bound=1)
    if (rest := parse_known("translate", values, arguments)) is None:
        return 0
    need(values, "workdir", "from", "out")
    trained = load_alone("translate", Path(values.workdir))

    from gen_jax.launch.commands.translate import run_translation, told_image

    told_image(trained)
    model = trained.experiment.model
    options, _ = model_flags("translate", model, rest, model.sampler.options)
    run_translation(
        trained,
        Path(str(values["from"].value)),
        Path(values.out),
        options=options,
        batch_size=values.batch_size,
    )
    return 0


def patches(arguments: list[str]) -> int:
    """Run ``gen-jax patches``."""
    from gen_jax.patches import Settings

    values, usual = flags.FlagValues(), Settings()
    flags.DEFINE_string(
        "image", None, "a picture, an animated GIF or WebP, or a video", flag_values=values
    )
    flags.DEFINE_string("out", None, "FILE.png, .npz; of films .gif, .webp", flag_values=values)
    flags.DEFINE_integer("num", 1, "results", flag_values=values, lower_bound=1)
    flags.DEFINE_integer(
        "side", 128, "longer side that sources are brought to at most", flag_values=values,
        lower_bound=8,
    )  # fmt: skip
    flags.DEFINE_string(
        "shape", None, "HEIGHTxWIDTH of the result; with --sigma 0 the picture is retargeted",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "mask", None, "a picture, black where the source is filled", flag_values=values
    )
    flags.DEFINE_string(
        "structure", None, "a picture to draw anew of the source's patches", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "names all results", flag_values=values, lower_bound=0)
    flags.DEFINE_enum(
        "method", "patches", ["patches", "singan"],
        "nearest patches, or SinGAN, trained on the picture", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "steps", 500, "singan: steps at each scale", flag_values=values, lower_bound=1
    )
    flags.DEFINE_float(
        "sigma", usual.sigma, "how much results differ from the source", flag_values=values,
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_float(
        "alpha", usual.alpha, "the smaller, the more all of the source is used", flag_values=values
    )
    for name, least, doc in (
        ("patch", 1, "side of a patch"),
        ("frames", 1, "length of a patch in time, of a film"),
        ("coarsest", 1, "pixels of the shorter side at the coarsest level"),
        ("rounds", 1, "rounds at each level"),
    ):
        flags.DEFINE_integer(name, getattr(usual, name), doc, flag_values=values, lower_bound=least)
    if parse("patches", values, arguments):
        return 0
    need(values, "image", "out")
    if not values.alpha > 0:
        raise ConfigError(f"--alpha: got {values.alpha}; a number above 0 is required")
    shape = None
    if values.shape is not None:
        parts = values.shape.split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise ConfigError(f"--shape: got {values.shape!r}; HEIGHTxWIDTH is required")
        shape = (int(parts[0]), int(parts[1]))
    check_writable(Path(values.out))

    from gen_jax.launch.commands.patches import Request, run_patches

    names = ("patch", "frames", "coarsest", "rounds", "alpha", "sigma")
    run_patches(
        Request(
            Path(values.image).expanduser(),
            Path(values.out).expanduser(),
            values.num,
            values.side,
            shape,
            Path(values.mask).expanduser() if values.mask else None,
            Path(values.structure).expanduser() if values.structure else None,
            values.seed,
            usual._replace(**{name: getattr(values, name) for name in names}),
            values.method,
            values.steps,
        )
    )
    return 0


def rank(arguments: list[str]) -> int:
    """Run ``gen-jax rank``."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of a model of images and texts", flag_values=values)
    flags.DEFINE_string("images", None, "an npz with images, or a picture", flag_values=values)
    flags.DEFINE_string("out", None, "FILE.png or FILE.npz", flag_values=values)
    flags.DEFINE_integer("keep", 8, "images of each text", flag_values=values, lower_bound=1)
    flags.DEFINE_string(
        "prompt", None, "text to rank by; without, those of the npz", flag_values=values
    )
    if parse("rank", values, arguments):
        return 0
    need(values, "workdir", "images", "out")
    out = Path(values.out)
    if out.suffix not in (".png", ".npz"):
        raise ConfigError(f"--out: got {values.out!r}; a name ending in .png or .npz is required")
    check_writable(out)
    trained = load_alone("rank", Path(values.workdir))
    if trained.experiment.model.matching is None:
        family = trained.config["family"]
        raise ConfigError(
            f"--workdir: family {family!r}; one of images and texts, 'clip', is required"
        )

    from gen_jax.launch.commands.matching import run_ranking

    prompts = [values.prompt] if values.prompt is not None else []
    run_ranking(trained, Path(values.images).expanduser(), out.expanduser(), prompts, values.keep)
    return 0


def dream(arguments: list[str]) -> int:
    """Run ``gen-jax dream``."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of a VQ-VAE or VQGAN", flag_values=values)
    flags.DEFINE_string("clip", None, "of a model of images and texts", flag_values=values)
    flags.DEFINE_string("prompt", None, "text that images are to match", flag_values=values)
    flags.DEFINE_string(
        "out", None, "FILE.gif or .webp of the way there, FILE.png or .npz", flag_values=values
    )
    flags.DEFINE_string(
        "image", None, "to begin with, in place of random codes", flag_values=values
    )
    flags.DEFINE_integer("num", 4, "how many images", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("seed", 0, "names the images", flag_values=values, lower_bound=0)
    flags.DEFINE_integer("steps", 300, "of descent", flag_values=values, lower_bound=30)
    flags.DEFINE_float("learning_rate", 0.1, "of Adam", flag_values=values, lower_bound=0.0)
    flags.DEFINE_integer(
        "cutouts", 32, "squares that each image is judged by", flag_values=values, lower_bound=1
    )
    if parse("dream", values, arguments):
        return 0
    need(values, "workdir", "clip", "prompt", "out")
    out = Path(values.out).expanduser()
    if out.suffix not in (".gif", ".webp", ".png", ".npz"):
        what = "a name ending in .gif, .webp, .png or .npz is required"
        raise ConfigError(f"--out: got {values.out!r}; {what}")
    check_writable(out)
    trained, clip = (load_alone("dream", Path(x)) for x in (values.workdir, values.clip))

    from gen_jax.launch.commands.dream import Request, run_dream

    request = Request(
        prompt=" ".join(values.prompt.split()),
        out=out,
        num=values.num,
        seed=values.seed,
        steps=values.steps,
        learning_rate=values.learning_rate,
        cutouts=values.cutouts,
        image=Path(values.image).expanduser() if values.image else None,
    )
    run_dream(trained, clip, request)
    return 0
