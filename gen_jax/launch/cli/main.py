"""The command line: ``gen-jax <command> ...``, also ``python -m gen_jax <command> ...``."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from gen_jax.errors import ConfigError, GenJaxError
from gen_jax.launch.cli import codes as cli_codes, images as cli_images
from gen_jax.launch.cli.flags import (
    HelpGiven,
    check_writable,
    class_number,
    define_data,
    define_sampling,
    load_alone,
    model_flags,
    need,
    parse,
    parse_known,
    read_override,
    take_overrides,
    with_data,
)

if TYPE_CHECKING:
    from gen_jax.launch.runs.resume import Resuming

__all__ = ["main"]

USAGE = """\
usage: gen-jax COMMAND [flags]

commands:
  train        --config FILE.py[:VARIANT] --workdir DIR [--config.section.field=VALUE ...]
  plan         --config FILE.py[:VARIANT] --topology cpu:N|tpu:KIND:AxB|gpu:SxHxD
               [--memory 80GiB] [--json] [--config.section.field=VALUE ...]
  help-config  [FAMILY]   every field of a family's config: default, meaning, what it accepts
  configs      [NAME] [--out FILE.py]   the experiments that come with gen_jax; one to edit
  launch       local -n N -- train ...   N processes on this machine
  sample       --workdir DIR --num N --out FILE.png|FILE.npz
  evaluate     --workdir DIR [--split=test|validation]
  translate    --workdir DIR --from DIR --out DIR   pictures through pix2pix or CycleGAN
  rank         --workdir DIR --images FILE.npz --out FILE   images that match a text best, by CLIP
  dream        --workdir DIR --clip DIR --prompt TEXT --out FILE.gif   images by descent, VQGAN+CLIP
  compare      DIR DIR ... --classifier DIR --table FILE.md | --out FILE.html   several runs
  serve        --workdir DIR [--port N]   a warm model behind HTTP, for this machine alone
  report       --workdir DIR   write DIR/report.html anew; training writes it too
  patches      --image FILE --num N --out FILE    new pictures of one picture's patches, or films
  import       --from DIR --workdir DIR   weights of diffusers (safetensors)
  export       --workdir DIR --to DIR | --format stablehlo --to FILE   weights, or a program
  doctor       what this machine is, and what would make it faster

of models with codes:
  reconstruct  --workdir DIR --num N --out FILE.png   originals above reconstructions
  interpolate  --workdir DIR --out FILE.png           from image to image through codes
  resynthesis  --workdir DIR --classes A,B --out FILE.png   codes moved from class to class
  manifold     --workdir DIR --out FILE.png           a grid over a 2-D latent space
  scatter      --workdir DIR --out FILE.png           codes colored by label
  encode       --workdir DIR --out DIR                all codes of a dataset, for a second stage

gen-jax COMMAND --help lists a command's flags, gen-jax --version the version. Configs that come
with gen_jax go by their names: --config ddpm_digits, or ddpm_digits:tiny for a first try.
"""

TRAIN_EXAMPLES = """
examples:
  gen-jax train --config configs/ddpm_digits.py --workdir runs/digits
  gen-jax train --config configs/ddpm_digits.py --workdir runs/wide \\
      --config.model.channels=64 --config.train.steps=3000
  gen-jax train --config configs/ddpm_digits.py:tiny --workdir runs/try

The same line goes on from the last checkpoint. gen-jax help-config lists what a config may say;
--config.SECTION.FIELD=VALUE says it.
"""

_PLACE = ("coordinator_address", "num_processes", "process_id")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; errors become one line on stderr.

    0 done, 2 usage or config, 3 data, 4 checkpoint, 5 non-finite loss, 6 work directory in use,
    7 storage, 8 another process, or a batch, did not come, 130 and 143 stopped by a signal with a
    checkpoint saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _run([argument for argument in arguments if argument != "--debug"])
    except HelpGiven:
        return 0
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
    if platform := _missing_platform(error):
        return platform, 2
    # Not foreseen: still one line, and the way to learn more.
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {reason}; --debug shows where", 1


def _missing_platform(error: BaseException) -> str | None:
    """Recognize that JAX found no device of the kind that JAX_PLATFORMS asks for."""
    asked = os.environ.get("JAX_PLATFORMS")
    frames = traceback.extract_tb(error.__traceback__)
    if not asked or not any("xla_bridge" in frame.filename for frame in frames):
        return None
    extras = {"cuda": "cuda13", "gpu": "cuda13", "tpu": "tpu"}
    extra = next((extras[name] for name in asked.split(",") if name in extras), None)
    way = f"install gen_jax[{extra}], or " if extra else ""
    reason = f" ({str(error).strip().splitlines()[0]})" if str(error).strip() else ""
    return (
        f"JAX_PLATFORMS: got {asked!r}; JAX finds no such devices here{reason}; {way}leave it "
        "unset for whatever is there"
    )


def _run(arguments: list[str]) -> int:
    commands: Mapping[str, Callable[[list[str]], int]] = {
        "train": _train,
        "help-config": _help_config,
        "configs": _configs,
        "launch": _launch,
        "plan": _plan,
        "sample": _sample,
        "evaluate": _evaluate,
        "translate": cli_images.translate,
        "compare": _compare,
        "report": _report,
        "serve": _serve,
        "patches": cli_images.patches,
        "rank": cli_images.rank,
        "dream": cli_images.dream,
        "import": _import,
        "export": _export,
        "doctor": _doctor,
        **cli_codes.COMMANDS,
    }
    if arguments[:1] == ["--version"]:
        print(f"gen_jax {metadata.version('gen_jax')}")
        return 0
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        raise ConfigError(f"{arguments[0]!r} is no command; {', '.join(commands)} are")
    command = commands[arguments[0]]
    # JAX is not loaded for those who set nothing: some commands need none.
    guarded = any(name.startswith("JAX_TRANSFER_GUARD") for name in os.environ)
    if not guarded and "jax" not in sys.modules:
        return command(arguments[1:])
    from gen_jax.train.transfers import allowed

    with allowed():
        return command(arguments[1:])


def _train(arguments: list[str]) -> int:
    overrides, rest = take_overrides(arguments)
    values = flags.FlagValues()
    flags.DEFINE_string(
        "config",
        None,
        "config file, FILE.py or FILE.py:VARIANT, the name of one that comes with gen_jax, or a "
        "run's config.json; by default that of the work directory",
        flag_values=values,
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
    flags.DEFINE_integer(
        "heartbeat_timeout",
        60,
        "seconds after which a process that no longer answers ends the job",
        flag_values=values,
        lower_bound=1,
    )
    _define_resuming(values)
    if parse("train", values, rest, more=TRAIN_EXAMPLES):
        return 0
    named, saved = values.config, Path(values.workdir or "").expanduser() / "config.json"
    if values.workdir and not named and saved.exists():
        named = str(saved)  # goes on with the run
    else:
        need(values, "config", "workdir")

    from gen_jax.launch.commands.train import run_training
    from gen_jax.launch.config.files import load_config
    from gen_jax.launch.jobs.processes import connected, find_place

    config = load_config(str(named), overrides)
    resuming = _resuming(values, config["family"])
    given = {name: values[name].value for name in _PLACE}
    place = find_place(given, os.environ)
    with connected(place, values.init_timeout, values.heartbeat_timeout):
        return run_training(config, Path(values.workdir), resuming)


def _define_resuming(values: flags.FlagValues) -> None:
    flags.DEFINE_enum(
        "restart",
        None,
        ["from_scratch"],
        "put away what the work directory holds, and begin anew",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "strict_restore",
        False,
        "refuse a damaged newest checkpoint instead of going on from the one before it",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "allow_data_change",
        False,
        "go on although the training data is not what the checkpoint was trained on",
        flag_values=values,
    )
    flags.DEFINE_list(
        "allow_config_change",
        [],
        "frozen fields that may differ from the checkpoint's config, as data.flip,data.crop",
        flag_values=values,
    )


def _resuming(values: flags.FlagValues, family: str) -> "Resuming":
    from gen_jax.launch.config.schema import fields_of, nearest
    from gen_jax.launch.runs.resume import Resuming

    fields = fields_of(family)
    for name in values.allow_config_change:
        if name not in fields:
            hint = nearest(name, fields)
            raise ConfigError(f"--allow_config_change: {name!r}: unknown field{hint}")
    return Resuming(
        from_scratch=values.restart == "from_scratch",
        strict=values.strict_restore,
        allowed=tuple(values.allow_config_change),
        other_data=values.allow_data_change,
    )


def _plan(arguments: list[str]) -> int:
    overrides, rest = take_overrides(arguments)
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
    if parse("plan", values, rest):
        return 0
    need(values, "config", "topology")

    from gen_jax.launch.config.files import load_config
    from gen_jax.launch.planning.hardware import choose_hardware, parse_size
    from gen_jax.launch.planning.plan import run_plan
    from gen_jax.launch.planning.topology import open_topology

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


def _help_config(arguments: list[str]) -> int:
    from gen_jax.launch.commands.help_config import run_help_config

    if len(arguments) > 1:
        raise ConfigError(f"help-config: {' '.join(arguments)!r}; one family at most is required")
    asked = [argument for argument in arguments if argument not in ("-h", "--help")]
    run_help_config(asked[0] if asked else None)
    return 0


def _configs(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "FILE.py: copy the config there, to edit", flag_values=values)
    names = [argument for argument in arguments if not argument.startswith("-")]
    rest = [argument for argument in arguments if argument.startswith("-")]
    if "--out" in rest:  # its value stands apart
        names, rest = names[:-1], ["--out", names[-1]] if names else rest
    if parse("configs", values, rest, "the name of a config may come first"):
        return 0
    if len(names) > 1 or (values.out and not names):
        raise ConfigError(f"configs: got {' '.join(names) or 'no name'}; one name is required")
    if values.out:
        check_writable(Path(values.out).expanduser())

    from gen_jax.launch.commands.shipped import run_configs

    out = Path(values.out).expanduser() if values.out else None
    run_configs(names[0] if names else None, out)
    return 0


def _doctor(arguments: list[str]) -> int:
    from gen_jax.launch.cli.allocator import allocator
    from gen_jax.launch.commands.doctor import run_doctor

    if any(argument not in ("-h", "--help") for argument in arguments):
        raise ConfigError(f"doctor: got {' '.join(arguments)!r}; no flags are required")
    run_doctor(os.environ, allocator(os.environ))
    return 0


def _launch(arguments: list[str]) -> int:
    from gen_jax.launch.jobs.local import launch_local

    if arguments[:1] != ["local"] or "--" not in arguments:
        if "--help" in arguments:
            print("gen-jax launch local -n N -- train ...: N processes on this machine")
            return 0
        raise ConfigError("launch: `launch local -n N -- train ...` is required")
    split = arguments.index("--")
    values = flags.FlagValues()
    flags.DEFINE_integer("n", None, "how many processes", flag_values=values, lower_bound=1)
    if parse("launch local", values, arguments[1:split]):
        return 0
    need(values, "n")
    command = arguments[split + 1 :]
    if command[:1] != ["train"]:
        raise ConfigError(f"launch: {' '.join(command[:1]) or 'nothing'!r}; train is required")
    return launch_local(values.n, command)


def _sample(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    flags.DEFINE_integer("num", 64, "how many samples", flag_values=values, lower_bound=1)
    flags.DEFINE_string(
        "out",
        None,
        "FILE.png for a grid, FILE.npz for arrays, DIR/ for numbered pictures; of films FILE.gif",
        flag_values=values,
    )
    flags.DEFINE_string(
        "trace", None, "FILE.gif: also show how the samples come about", flag_values=values
    )
    flags.DEFINE_string(
        "classifier",
        None,
        "work directory of a classifier of noisy images, to guide with",
        flag_values=values,
    )
    flags.DEFINE_string(
        "clip",
        None,
        "work directory of a model of images and texts, to lead samples toward --target",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "with_noise", False, "also write the noise that each sample began as", flag_values=values
    )
    flags.DEFINE_integer(
        "interpolate",
        None,
        "rows of so many samples, from one latent to the next; with --image between images",
        flag_values=values,
        lower_bound=2,
    )
    flags.DEFINE_boolean(
        "arr_0",
        False,
        "call the images of an npz arr_0, as ADM's evaluator does",
        flag_values=values,
    )
    define_sampling(values, batch_size=128)
    if (rest := parse_known("sample", values, arguments)) is None:
        return 0
    if "--help" in rest:  # also the flags of the model's sampler
        need(values, "workdir")
    else:
        need(values, "workdir", "out")
        _check_outputs(values)

    from gen_jax.launch.sampling.command import run_sampling
    from gen_jax.launch.sampling.request import Request

    trained = load_alone("sample", Path(values.workdir))
    if trained.experiment.model.sampler is None:
        raise ConfigError(f"sample: family {trained.config['family']!r} does not generate")
    guide = None
    if values.classifier and values.clip:
        raise ConfigError("--clip: goes not with --classifier")
    if values.classifier:
        from gen_jax.launch.sampling.guidance import with_classifier

        trained, guide = with_classifier(trained, Path(values.classifier))
    elif values.clip:
        if not any(argument.lstrip("-").startswith("target") for argument in rest):
            raise ConfigError("--clip: --target, a text, is required with it")
        from gen_jax.launch.sampling.guidance import with_clip

        trained, guide = with_clip(trained, Path(values.clip))
    elif any(argument.lstrip("-").startswith("classifier_scale") for argument in rest):
        raise ConfigError("--classifier_scale: has a meaning only with --classifier")
    model = trained.experiment.model
    options, inputs = model_flags("sample", model, rest, model.sampler.options, inputs=True)
    if "label" in inputs:
        inputs["label"] = class_number(Path(values.workdir), inputs["label"])
    names = ("num", "seed", "batch_size", "with_noise", "interpolate", "arr_0")
    given: dict[str, Any] = {name: values[name].value for name in names}
    trace = Path(values.trace) if values.trace else None
    request = Request(out=Path(values.out), options=options, inputs=inputs, trace=trace, **given)
    run_sampling(trained, request, guide)
    return 0


def _check_outputs(values: flags.FlagValues) -> None:
    """Check before anything is loaded that the files can be written."""
    out = Path(values.out)
    folder = str(values.out).endswith("/") or out.is_dir()
    if not folder and out.suffix not in (".png", ".npz", ".gif", ".webp"):
        what = "a name ending in .png or .npz, or a folder's ending in /, is required"
        raise ConfigError(f"--out: {values.out!r}; {what}")
    check_writable(out / "0.png" if folder and out.is_dir() else out)
    if values.trace:
        if Path(values.trace).suffix != ".gif":
            raise ConfigError(f"--trace: {values.trace!r}; a name ending in .gif is required")
        check_writable(Path(values.trace))


def _evaluate(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    define_data(values)
    flags.DEFINE_integer(
        "num", 1000, "samples for the Fréchet distance", flag_values=values, lower_bound=2
    )
    flags.DEFINE_integer(
        "likelihood_num",
        None,
        "held-out images for the likelihood; by default all, or none of a diffusion model",
        flag_values=values,
        lower_bound=2,
    )
    flags.DEFINE_string(
        "classifier",
        None,
        "work directory of a classifier, for the class accuracy of samples and a Fréchet distance "
        "in its features",
        flag_values=values,
    )
    flags.DEFINE_list(
        "features",
        [],
        "pretrained networks to compare images in: alexnet, vgg16, efficientnet_lite0; "
        "inception:PATH, of pt_inception-2015-12-05-6726825d.pth, for FID",
        flag_values=values,
    )
    flags.DEFINE_string(
        "clip",
        None,
        "work directory of a model of images and texts, for how well samples match their prompts",
        flag_values=values,
    )
    define_sampling(values, batch_size=256)
    if (rest := parse_known("evaluate", values, arguments)) is None:
        return 0
    need(values, "workdir")
    trained = load_alone("evaluate", Path(values.workdir), whole=True)
    options, _ = model_flags(
        "evaluate", trained.experiment.model, rest, _measured(trained.experiment.model)
    )
    trained = with_data(trained, values)

    from gen_jax.launch.commands.evaluate import run_evaluation

    run_evaluation(
        trained,
        Path(values.workdir),
        num=values.num,
        seed=values.seed,
        batch_size=values.batch_size,
        options=options,
        split=values.split,
        likelihood_num=values.likelihood_num,
        classifier=Path(values.classifier) if values.classifier else None,
        networks=tuple(values.features),
        clip=Path(values.clip) if values.clip else None,
    )
    return 0


def _compare(arguments: list[str]) -> int:
    workdirs = []
    while arguments and not arguments[0].startswith("-"):
        workdirs.append(Path(arguments[0]).expanduser())
        arguments = arguments[1:]
    values = flags.FlagValues()
    flags.DEFINE_string(
        "classifier", None, "work directory of a classifier of the same images", flag_values=values
    )
    flags.DEFINE_string("table", None, "FILE.md; pictures go beside it", flag_values=values)
    flags.DEFINE_string(
        "out",
        None,
        "FILE.html in place of a table: curves over one another, pictures side by side",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num", 1000, "samples, and images, for each number", flag_values=values, lower_bound=20
    )
    flags.DEFINE_integer(
        "seeds", 3, "times that samples are drawn, for spreads", flag_values=values, lower_bound=1
    )
    flags.DEFINE_integer(
        "likelihood_num",
        500,
        "held-out images for likelihoods, at most",
        flag_values=values,
        lower_bound=2,
    )
    flags.DEFINE_integer("batch_size", 250, "images at once", flag_values=values, lower_bound=1)
    if parse("compare", values, arguments, "names of work directories come first"):
        return 0
    if len(workdirs) < 1:
        raise ConfigError("compare: names of work directories are required: compare DIR DIR ...")
    if values.out:
        return _compare_pages(workdirs, Path(values.out).expanduser())
    need(values, "classifier", "table")
    check_writable(Path(values.table))

    from gen_jax.launch.commands.compare import run_comparison

    run_comparison(
        workdirs,
        Path(values.classifier).expanduser(),
        Path(values.table).expanduser(),
        num=values.num,
        seeds=values.seeds,
        likelihood_num=values.likelihood_num,
        batch_size=values.batch_size,
    )
    return 0


def _compare_pages(workdirs: list[Path], out: Path) -> int:
    if out.suffix != ".html":
        raise ConfigError(f"--out: got {str(out)!r}; a name ending in .html is required")
    check_writable(out)

    from gen_jax.launch.report.writing import write_comparison

    write_comparison(workdirs, out)
    print(f"{len(workdirs)} runs in {out}; a browser opens it", flush=True)
    return 0


def _report(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    if parse("report", values, arguments):
        return 0
    need(values, "workdir")

    from gen_jax.launch.report.writing import write_report

    path = write_report(Path(values.workdir).expanduser())
    if path is None:
        raise ConfigError(f"--workdir: {values.workdir}: no run: it has no config.json")
    print(f"{path}: a browser opens it", flush=True)
    return 0


def _serve(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    flags.DEFINE_string(
        "host", "127.0.0.1", "address to listen at; others than this reach beyond this machine",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "port", 8000, "0 takes a free one", flag_values=values, lower_bound=0, upper_bound=65535
    )
    flags.DEFINE_integer("most", 64, "samples of a request", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("queue", 8, "requests that may wait", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "samples at once", flag_values=values, lower_bound=1)
    if parse("serve", values, arguments):
        return 0
    need(values, "workdir")

    from gen_jax.launch.door import load
    from gen_jax.launch.serve import Limits, serve

    run = load(values.workdir)
    if not run.options and run.trained.experiment.model.sampler is None:
        raise ConfigError(f"serve: family {run.family!r} does not generate")
    try:
        serve(run, values.host, values.port, Limits(values.most, values.queue, values.batch_size))
    except OSError as error:
        raise ConfigError(f"--port: {values.port}: {error.strerror or error}") from error
    return 0


def _measured(model: Any) -> dict[str, Any]:
    """List the options that evaluation may choose: of the density, and of samples of the data."""
    sampler, density = model.sampler, model.density
    told = {name for name, given in model.inputs.items() if given.needed}
    options = {} if sampler is None else dict(sampler.options)
    options = {n: option for n, option in options.items() if option.needs in (None, *told)}
    return options | ({} if density is None else dict(density.options))


def _import(arguments: list[str]) -> int:
    overrides, rest = take_overrides(arguments)
    values = flags.FlagValues()
    flags.DEFINE_string("from", None, "folder of a diffusers model or pipeline", flag_values=values)
    flags.DEFINE_string("workdir", None, "to be made", flag_values=values)
    flags.DEFINE_string(
        "stage1",
        None,
        "work directory of a first stage, for a model of latents",
        flag_values=values,
    )
    if parse("import", values, rest):
        return 0
    need(values, "from", "workdir")

    from gen_jax.launch.commands.convert import run_import

    changes = dict(read_override(line) for line in overrides)
    stage1 = Path(values.stage1) if values.stage1 else None
    source = Path(str(values["from"].value))
    run_import(source, Path(values.workdir), stage1=stage1, overrides=changes)
    return 0


def _export(arguments: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "of the training run", flag_values=values)
    flags.DEFINE_string(
        "to",
        None,
        "folder to write, as diffusers would; of a program, its file",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format",
        "diffusers",
        ["diffusers", "stablehlo"],
        "weights for diffusers, or a program that samples wherever JAX is",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num", 16, "stablehlo: samples of a call", flag_values=values, lower_bound=1
    )
    if (rest := parse_known("export", values, arguments)) is None:
        return 0
    need(values, "workdir", "to")
    if values.format == "stablehlo":
        return _export_program(values, rest)
    if rest:
        raise ConfigError(f"export: {rest[0]}: options of a sampler go with --format stablehlo")

    from gen_jax.launch.commands.convert import run_export

    run_export(Path(values.workdir), Path(values.to))
    return 0


def _export_program(values: flags.FlagValues, rest: list[str]) -> int:
    out = Path(values.to).expanduser()
    check_writable(out)
    trained = load_alone("export", Path(values.workdir))
    model = trained.experiment.model
    known = {} if model.sampler is None else dict(model.sampler.options)
    options, _ = model_flags("export", model, rest, known)

    from gen_jax.launch.commands.program import export_program

    export_program(trained, out, values.num, options)
    return 0


# Commands that compute nothing.
_LIGHT: tuple[list[str], ...] = (
    [],
    ["help"],
    ["-h"],
    ["--help"],
    ["--version"],
    ["help-config"],
    ["configs"],
    ["launch"],
)


def run() -> None:
    """Run as a program: the entry point of the console script."""
    from gen_jax.launch.cli.allocator import use_huge_pages
    from gen_jax.launch.cli.cache import use_compilation_cache
    from gen_jax.launch.cli.streams import keep_streams

    if sys.argv[1:2] not in _LIGHT:
        use_huge_pages(os.environ, sys.orig_argv)
    keep_streams()
    # When a run ends with an error in the middle of a batch, a helper of Python's takes away what
    # workers shared. It inherits these options, and need not complain.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    use_compilation_cache(os.environ)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries must not keep a finished job alive, nor change its exit code.
    os._exit(code)
