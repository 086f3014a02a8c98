"""The command line: ``gen-jax <command> ...``, also ``python -m gen_jax <command> ...``."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from gen_jax.errors import ConfigError, GenJaxError, StorageError

__all__ = ["main"]

USAGE = """\
usage: gen-jax COMMAND [flags]

commands:
  train        --config FILE.py[:VARIANT] --workdir DIR [--config.section.field=VALUE ...]
  plan         --config FILE.py[:VARIANT] --topology cpu:N|tpu:KIND:AxB|gpu:SxHxD
               [--memory 80GiB] [--json] [--config.section.field=VALUE ...]
  launch       local -n N -- train ...   N processes on this machine
  sample       --workdir DIR --num N --out FILE.png|FILE.npz
  evaluate     --workdir DIR [--split=test|validation]

of models with codes:
  reconstruct  --workdir DIR --num N --out FILE.png   originals above reconstructions
  interpolate  --workdir DIR --out FILE.png           from image to image through codes
  resynthesis  --workdir DIR --classes A,B --out FILE.png   codes moved from class to class
  manifold     --workdir DIR --out FILE.png           a grid over a 2-D latent space
  scatter      --workdir DIR --out FILE.png           codes coloured by label

gen-jax COMMAND --help lists a command's flags.
"""

_PLACE = ("coordinator_address", "num_processes", "process_id")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; errors become one line on stderr.

    0 done, 2 usage or config, 3 data, 4 checkpoint, 5 non-finite loss, 6 work directory in use,
    7 storage, 8 another process did not come, 130 and 143 stopped by a signal with a checkpoint
    saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _run([argument for argument in arguments if argument != "--debug"])
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = _describe(error)
        print(f"gen_jax: {message}", file=sys.stderr, flush=True)
        return code


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, GenJaxError):
        return f"{error.area}: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    # Not foreseen: still one line, and the way to learn more.
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {reason}; --debug shows where", 1


def _run(arguments: list[str]) -> int:
    commands: Mapping[str, Callable[[list[str]], int]] = {
        "train": _train,
        "launch": _launch,
        "plan": _plan,
        "sample": _sample,
        "evaluate": _evaluate,
        "reconstruct": _reconstruct,
        "interpolate": _interpolate,
        "resynthesis": _resynthesis,
        "manifold": _manifold,
        "scatter": _scatter,
    }
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        raise ConfigError(f"{arguments[0]!r} is no command; {', '.join(commands)} are")
    return commands[arguments[0]](arguments[1:])


def _train(arguments: list[str]) -> int:
    overrides, rest = _take_overrides(arguments)
    values = flags.FlagValues()
    flags.DEFINE_string(
        "config", None, "config file, FILE.py or FILE.py:VARIANT", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", None, "where everything about the run is kept", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of process 0, in a job of several; with --num_processes and --process_id, or "
        "the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; found by "
        "itself under Slurm, Open MPI and on TPU pods",
        flag_values=values,
    )
    flags.DEFINE_integer("num_processes", None, "of the job", flag_values=values)
    flags.DEFINE_integer("process_id", None, "of this process, from 0", flag_values=values)
    flags.DEFINE_integer(
        "init_timeout", 120, "seconds to wait for all", flag_values=values, lower_bound=1
    )
    if _parse("train", values, rest):
        return 0
    _need(values, "config", "workdir")

    from gen_jax.launch.cluster import connected, find_place
    from gen_jax.launch.configfile import load_config
    from gen_jax.launch.train import run_training

    config = load_config(values.config, overrides)
    given = {name: values[name].value for name in _PLACE}
    with connected(find_place(given, os.environ), values.init_timeout):
        return run_training(config, Path(values.workdir))


def _plan(arguments: list[str]) -> int:
    overrides, rest = _take_overrides(arguments)
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "as for train", flag_values=values)
    flags.DEFINE_string(
        "topology", None, "cpu:64, tpu:v5e:16x16 or gpu:1x8x8, for example", flag_values=values
    )
    flags.DEFINE_string(
        "target_config", None, "for GPUs: a GpuTargetConfig of XLA, as text", flag_values=values
    )
    flags.DEFINE_string(
        "memory", None, "of each device, as 80GiB; by default the hardware's", flag_values=values
    )
    flags.DEFINE_string(
        "hardware", None, "whose peaks to use for times: h100, v5e, ...", flag_values=values
    )
    for name in ("peak_flops", "link", "network"):
        flags.DEFINE_float(
            name, None, "instead of the hardware's, FLOP/s or bytes/s", flag_values=values
        )
    flags.DEFINE_boolean("json", False, "print JSON", flag_values=values)
    if _parse("plan", values, rest):
        return 0
    _need(values, "config", "topology")

    from gen_jax.launch.configfile import load_config
    from gen_jax.launch.plan import choose_hardware, open_topology, parse_size, run_plan

    config = load_config(values.config, overrides)
    if config["train"]["engine"] == "pmap":
        raise ConfigError("train.engine: 'pmap' cannot be planned; 'shard_map' is the same step")
    memory = parse_size(values.memory) if values.memory else None
    given = {name: values[name].value for name in ("peak_flops", "link", "network")}
    target = Path(values.target_config) if values.target_config else None
    topology = open_topology(values.topology, target)
    hardware = choose_hardware(values.topology, values.hardware, given)
    run_plan(config, topology, hardware, memory, as_json=values.json)
    return 0


def _launch(arguments: list[str]) -> int:
    from gen_jax.launch.local import launch_local

    if arguments[:1] != ["local"] or "--" not in arguments:
        if "--help" in arguments:
            print("gen-jax launch local -n N -- train ...: N processes on this machine")
            return 0
        raise ConfigError("launch: `launch local -n N -- train ...` is needed")
    split = arguments.index("--")
    values = flags.FlagValues()
    flags.DEFINE_integer("n", None, "how many processes", flag_values=values, lower_bound=1)
    if _parse("launch local", values, arguments[1:split]):
        return 0
    _need(values, "n")
    command = arguments[split + 1 :]
    if command[:1] != ["train"]:
        raise ConfigError(f"launch: {' '.join(command[:1]) or 'nothing'!r}; train is needed")
    return launch_local(values.n, command)


def _sample(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    flags.DEFINE_integer("num", 64, "how many samples", flag_values=values, lower_bound=1)
    flags.DEFINE_string("out", None, "FILE.png for a grid, FILE.npz for arrays", flag_values=values)
    flags.DEFINE_integer("label", None, "class; by default all in turn", flag_values=values)
    _define_sampling(values, batch_size=128)
    if (rest := _parse_known("sample", values, arguments)) is None:
        return 0
    _need(values, "workdir", "out")
    out = Path(values.out)
    if out.suffix not in (".png", ".npz"):
        raise ConfigError(f"--out: {values.out!r}; a name ending in .png or .npz is needed")
    _see_that_it_can_be_written(out)
    trained, options = _trained_and_options("sample", values, rest)

    from gen_jax.launch.sample import run_sampling

    run_sampling(
        trained,
        num=values.num,
        seed=values.seed,
        out=out,
        label=values.label,
        batch_size=values.batch_size,
        options=options,
    )
    return 0


def _evaluate(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    _define_data(values)
    flags.DEFINE_integer(
        "num", 1000, "samples for the Fréchet distance", flag_values=values, lower_bound=2
    )
    _define_sampling(values, batch_size=256)
    if (rest := _parse_known("evaluate", values, arguments)) is None:
        return 0
    _need(values, "workdir")
    trained, options = _trained_and_options("evaluate", values, rest, density=True)
    trained = _with_data(trained, values)

    from gen_jax.launch.evaluate import run_evaluation

    run_evaluation(
        trained,
        Path(values.workdir),
        num=values.num,
        seed=values.seed,
        batch_size=values.batch_size,
        options=options,
        split=values.split,
    )
    return 0


def _reconstruct(arguments: list[str]) -> int:
    loaded = _latents("reconstruct", arguments, num=64)
    if loaded is None:
        return 0
    values, trained, source = loaded

    from gen_jax.launch.latents import run_reconstruction

    run_reconstruction(trained, source, num=values.num, out=Path(values.out))
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

    from gen_jax.launch.latents import run_interpolation

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

    from gen_jax.launch.latents import run_resynthesis

    if len(values.classes) != 2 or not all(name.isdecimal() for name in values.classes):
        given = ",".join(values.classes)
        raise ConfigError(f"--classes: {given!r}; two classes, like 3,8, are needed")
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

    from gen_jax.launch.latents import run_manifold

    run_manifold(trained, side=values.side, label=values.label, out=Path(values.out))
    return 0


def _scatter(arguments: list[str]) -> int:
    loaded = _latents("scatter", arguments, num=2000, least=3)
    if loaded is None:
        return 0
    values, trained, source = loaded

    from gen_jax.launch.latents import run_scatter

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
        _define_data(values)
        flags.DEFINE_integer("num", num, "how many", flag_values=values, lower_bound=least)
    define(values)
    if _parse(command, values, arguments):
        return None
    _need(values, "workdir", "out", *needed)
    out = Path(values.out)
    if out.suffix != ".png":
        raise ConfigError(f"--out: {values.out!r}; a name ending in .png is needed")
    _see_that_it_can_be_written(out)

    from gen_jax.launch.schema import families_with
    from gen_jax.launch.workdir import load_trained

    trained = load_trained(Path(values.workdir))
    known = families_with("PRIOR" if command == "manifold" else "LATENTS")
    if trained.config["family"] not in known:
        raise ConfigError(
            f"{command}: not for {trained.config['family']!r}; it is for {', '.join(known)}"
        )
    if num is None:
        return values, trained, None

    from gen_jax.launch.train import open_checked

    trained = _with_data(trained, values)
    return values, trained, open_checked(trained.config, values.split)


def _define_steps(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("steps", 11, "images a row", flag_values=values, lower_bound=2)


def _define_data(values: flags.FlagValues) -> None:
    flags.DEFINE_string("data", None, "where the data is now, if it has moved", flag_values=values)
    flags.DEFINE_enum(
        "split",
        "test",
        ["test", "validation", "train"],
        "of the data; validation is what data.holdout kept from training",
        flag_values=values,
    )


def _with_data(trained: Any, values: flags.FlagValues) -> Any:
    if not values.data:
        return trained
    data = {**trained.config["data"], "source": values.data}
    return trained._replace(config={**trained.config, "data": data})


def _see_that_it_can_be_written(out: Path) -> None:
    """Find out before an hour of sampling, and leave nothing behind."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or out.is_dir():
        raise StorageError(f"{out}: cannot be written")


def _define_sampling(values: flags.FlagValues, batch_size: int) -> None:
    flags.DEFINE_integer(
        "seed", 0, "names the samples", flag_values=values, lower_bound=0, upper_bound=2**32 - 1
    )
    flags.DEFINE_integer(
        "batch_size", batch_size, "samples at once", flag_values=values, lower_bound=1
    )


def _trained_and_options(
    command: str, values: flags.FlagValues, rest: list[str], *, density: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Load a work directory, and read the flags that its model's sampler, or density, takes."""
    from gen_jax.launch.workdir import load_trained

    trained = load_trained(Path(values.workdir))
    model = trained.experiment.model
    options = {**model.sample_options, **(model.log_prob_options if density else {})}
    own = flags.FlagValues()
    define: Mapping[type, Callable[..., Any]] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for name, option in options.items():
        define[option.kind](name, None, f"{option.help} ({option.accepts})", flag_values=own)
    if _parse(command, own, rest):
        raise ConfigError(f"--help: give it without --workdir for the flags of {command}")
    chosen = {name: own[name].value for name in options if own[name].value is not None}
    for name, value in chosen.items():
        if not options[name].ok(value):
            raise ConfigError(f"--{name}: {value!r}; {options[name].accepts} is needed")
        other, needed = options[name].goes_with or (name, value)
        if chosen.get(other, options[other].default) != needed:
            raise ConfigError(f"--{name}: has a meaning only with --{other} {needed}")
    return trained, chosen


def _take_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take out ``--config.a.b=value`` and ``--config.a.b value``, as ``a.b=value``."""
    overrides, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            value = value if equals else next(waiting, "")
            overrides.append(f"{name.removeprefix('config.')}={value}")
        else:
            rest.append(argument)
    return overrides, rest


def _parse(command: str, values: flags.FlagValues, arguments: list[str]) -> bool:
    """Parse all arguments; True if help was asked for, and given."""
    rest = _parse_known(command, values, arguments)
    if rest is None:
        return True
    if rest:
        from gen_jax.launch.schema import nearest

        hint = nearest(rest[0].lstrip("-").partition("=")[0], values)
        raise ConfigError(f"{rest[0]}: not a flag of gen-jax {command}{hint}")
    return False


def _parse_known(command: str, values: flags.FlagValues, arguments: list[str]) -> list[str] | None:
    """Parse the flags that are defined and give the other arguments; None after ``--help``."""
    if "--help" in arguments or "-h" in arguments:
        print(f"gen-jax {command}\n{values.get_help()}")
        return None
    try:
        return list(values(["gen-jax", *arguments], known_only=True))[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from error


def _need(values: flags.FlagValues, *names: str) -> None:
    missing = [f"--{name}" for name in names if not values[name].value]
    if missing:
        raise ConfigError(f"{' and '.join(missing)}: missing; see --help")


def run() -> None:
    """Run as a program: the entry point of the console script."""
    from gen_jax.launch.cache import use_compilation_cache

    use_compilation_cache(os.environ)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries must not keep a finished job alive, nor change its exit code.
    os._exit(code)
