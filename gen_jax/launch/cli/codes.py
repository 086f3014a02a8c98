"""The commands of models with codes: from ``reconstruct`` to ``encode``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from gen_jax.errors import ConfigError
from gen_jax.launch.cli.flags import check_writable, define_data, need, parse, with_data

__all__ = ["COMMANDS"]


def _reconstruct(arguments: list[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        about = "of codes from coarse to fine: what the first scales say, one more in each row"
        flags.DEFINE_boolean("scales", False, about, flag_values=values)

    loaded = _latents("reconstruct", arguments, num=64, define=define)
    if loaded is None:
        return 0
    values, trained, source = loaded

    from gen_jax.launch.commands.latents import run_reconstruction

    run_reconstruction(
        trained, source, num=values.num, out=Path(values.out), by_scale=values.scales
    )
    return 0


def _interpolate(arguments: list[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        _define_steps(values)
        flags.DEFINE_enum(
            "path", "slerp", ["slerp", "lerp"], "great circle or straight line", flag_values=values
        )

    loaded = _latents("interpolate", arguments, num=8, define=define)
    if loaded is None:
        return 0
    values, trained, source = loaded

    from gen_jax.launch.commands.latents import run_interpolation

    run_interpolation(
        trained,
        source,
        num=values.num,
        steps=values.steps,
        path=values.path,
        out=Path(values.out),
    )
    return 0


def _resynthesis(arguments: list[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        _define_steps(values)
        flags.DEFINE_list("classes", None, "from which class to which: A,B", flag_values=values)

    loaded = _latents("resynthesis", arguments, num=8, define=define, needed=("classes",))
    if loaded is None:
        return 0
    values, trained, source = loaded

    from gen_jax.launch.commands.latents import run_resynthesis

    if len(values.classes) != 2 or not all(name.isdecimal() for name in values.classes):
        given = ",".join(values.classes)
        raise ConfigError(f"--classes: {given!r}; two classes, like 3,8, are required")
    begin, end = map(int, values.classes)
    run_resynthesis(
        trained,
        source,
        num=values.num,
        steps=values.steps,
        pair=(begin, end),
        out=Path(values.out),
    )
    return 0


def _manifold(arguments: list[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("side", 20, "points a side", flag_values=values, lower_bound=1)
        flags.DEFINE_integer("label", None, "class; by default 0", flag_values=values)

    loaded = _latents("manifold", arguments, num=None, define=define)
    if loaded is None:
        return 0
    values, trained, _ = loaded

    from gen_jax.launch.commands.latents import run_manifold

    run_manifold(trained, side=values.side, label=values.label, out=Path(values.out))
    return 0


def _scatter(arguments: list[str]) -> int:
    loaded = _latents("scatter", arguments, num=2000, least=3)
    if loaded is None:
        return 0
    values, trained, source = loaded

    from gen_jax.launch.commands.latents import run_scatter

    run_scatter(trained, source, num=values.num, out=Path(values.out))
    return 0


def _latents(
    command: str,
    arguments: list[str],
    *,
    num: int | None,
    define: Callable[[flags.FlagValues], None] = lambda values: None,
    needed: tuple[str, ...] = (),
    least: int = 1,
) -> tuple[flags.FlagValues, Any, Any] | None:
    """Read flags, load a model that has codes and open its data; None after ``--help``.

    Without ``num`` the command shows no data, and none is opened.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    flags.DEFINE_string("out", None, "FILE.png", flag_values=values)
    if num is not None:
        define_data(values)
        flags.DEFINE_integer("num", num, "how many", flag_values=values, lower_bound=least)
    define(values)
    if parse(command, values, arguments):
        return None
    need(values, "workdir", "out", *needed)
    out = Path(values.out)
    if out.suffix != ".png":
        raise ConfigError(f"--out: {values.out!r}; a name ending in .png is required")
    check_writable(out)

    from gen_jax.launch.runs.restore import load_trained

    trained = load_trained(Path(values.workdir))
    _check_ability(command, trained.config["family"], trained.experiment.model)
    if num is None:
        return values, trained, None

    from gen_jax.launch.build.sources import check_source, open_split
    from gen_jax.launch.runs.tokens import with_text

    trained = with_data(trained, values)
    source = open_split(trained.config, values.split)
    source = with_text(source, trained.tokenizer, trained.config)
    if command != "scatter" or trained.experiment.num_classes:
        check_source(source, trained.experiment, trained.config)
    return values, trained, source


def _check_ability(command: str, family: str, model: Any) -> None:
    """Check that a model's latents are what a command needs."""
    latents = model.latents
    if latents is None or latents.encode is None or latents.cost > 1:
        raise ConfigError(f"{command}: not for {family!r}, which has no codes of images")
    if (
        command not in ("reconstruct", "encode") and latents.num_codes is not None
    ):  # ways need real numbers
        raise ConfigError(f"{command}: not for {family!r}, whose codes are whole numbers")
    if command == "manifold" and latents.prior is None:
        raise ConfigError(f"{command}: not for {family!r}, whose codes have no prior")


def _encode(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the first stage", flag_values=values)
    flags.DEFINE_string("out", None, "a folder, begun or new", flag_values=values)
    flags.DEFINE_string("data", None, "where the data is now, if it has moved", flag_values=values)
    flags.DEFINE_list("splits", ["train", "test"], "which to encode", flag_values=values)
    flags.DEFINE_integer(
        "seed", 0, "names random codes", flag_values=values, lower_bound=0, upper_bound=2**32 - 1
    )
    flags.DEFINE_integer("batch_size", 256, "images at once", flag_values=values, lower_bound=1)
    if parse("encode", values, arguments):
        return 0
    need(values, "workdir", "out")
    if not values.splits or set(values.splits) - {"train", "test"}:
        raise ConfigError(
            f"--splits: {','.join(values.splits)!r}; train, test or both are required"
        )

    from gen_jax.launch.config.files import from_json

    config = from_json(Path(values.workdir) / "config.json")

    from gen_jax.data import open_source
    from gen_jax.launch.commands.encode import run_encoding
    from gen_jax.launch.runs.restore import load_codec, load_weights

    saved = load_weights(Path(values.workdir))
    _check_ability("encode", config["family"], saved.experiment.model)
    data, shape = config["data"], tuple(config["data"]["shape"])
    # Whole splits: a second stage holds out what it wants to.
    sources = {
        split: open_source(values.data or data["source"], split, shape, data["dir"] or None)
        for split in values.splits
    }
    run_encoding(
        load_codec(Path(values.workdir), saved),
        sources,
        seed=values.seed,
        batch_size=values.batch_size,
        out=Path(values.out).expanduser(),
    )
    return 0


def _define_steps(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("steps", 11, "images a row", flag_values=values, lower_bound=2)


COMMANDS = {
    "reconstruct": _reconstruct,
    "interpolate": _interpolate,
    "resynthesis": _resynthesis,
    "manifold": _manifold,
    "scatter": _scatter,
    "encode": _encode,
}
"""By name: what each does with its arguments; it gives the exit code."""
