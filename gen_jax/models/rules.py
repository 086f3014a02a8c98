"""What does not go together in a model, without JAX; see :mod:`gen_jax.diffusion.rules`."""

from collections.abc import Collection, Mapping

__all__ = [
    "adversary_faults",
    "boltzmann_faults",
    "class_dropout_faults",
    "flow_faults",
    "gan_faults",
    "translation_faults",
    "vae_faults",
]


NEGATIVES = ("pcd", "cd", "tempering")


def boltzmann_faults(
    *,
    hidden: Collection[int],
    negative: str,
    steps: int,
    chains: int,
    temperatures: int = 2,
    rounds: int = 1,
    layers: int = 1,
) -> Mapping[str, str]:
    """Find what could not work in a Boltzmann machine.

    Args:
        hidden: units of each hidden layer.
        negative: how the machine draws for its gradient.
        steps: Gibbs steps of that.
        chains: their number.
        temperatures: of tempering.
        rounds: of mean field.
        layers: of hidden units.
    """
    faults: dict[str, str] = {}
    if len(hidden) != layers or min(hidden, default=0) < 1:
        faults["hidden"] = f"got {tuple(hidden)}; {layers} whole numbers from 1 are required"
    if negative not in NEGATIVES:
        faults["negative"] = f"got {negative!r}; one of {', '.join(NEGATIVES)} is required"
    for name, value in (("steps", steps), ("chains", chains), ("rounds", rounds)):
        if value < 1:
            faults[name] = f"got {value}; at least 1 is required"
    if negative == "tempering" and temperatures < 2:
        faults["temperatures"] = f"got {temperatures}; at least 2 are required"
    return faults


def class_dropout_faults(*, class_dropout: float, conditional: bool) -> Mapping[str, str]:
    """Find conditions that are to be left out where there are none."""
    if class_dropout and not conditional:
        return {"class_dropout": f"got {class_dropout}; 0 is required without num_classes"}
    return {}


def flow_faults(
    *,
    class_dropout: float,
    conditional: bool,
    noise: float,
    variational: bool,
    autoregressive: bool,
) -> Mapping[str, str]:
    """Find what does not go together in a normalizing flow.

    Args:
        class_dropout: share of labels that training leaves out.
        conditional: whether there are labels.
        noise: deviation of what training adds to x.
        variational: whether a second flow fills the bins of gray levels.
        autoregressive: whether the map goes token by token.
    """
    faults = dict(class_dropout_faults(class_dropout=class_dropout, conditional=conditional))
    if class_dropout and conditional and not autoregressive:
        faults["class_dropout"] = (
            f"got {class_dropout}; 0 is required of couplings, which cannot be guided"
        )
    if noise < 0:
        faults["noise"] = f"got {noise}; at least 0 is required"
    if noise and variational:
        faults["noise"] = f"got {noise}; 0 is required where bins are filled by a flow"
    return faults


GAMES = ("paired", "non_saturating", "hinge", "least_squares", "wasserstein")


def gan_faults(
    *,
    game: str,
    gammas: Collection[float],
    interpolation: float,
    penalized: bool,
    every: int,
    critic_turns: int,
    strengths: Collection[float],
) -> Mapping[str, str]:
    """Find what does not go together in a game of two players.

    Args:
        game: its name.
        gammas: weights of R1 and R2.
        interpolation: weight of WGAN-GP's penalty.
        penalized: whether there is any penalty.
        every: steps between two penalties.
        critic_turns: discriminator's turns in a step.
        strengths: probabilities of augmentations.
    """
    faults: dict[str, str] = {}
    if game not in GAMES:
        faults["game"] = f"got {game!r}; one of {', '.join(GAMES)} is required"
    if game == "wasserstein" and not penalized:
        faults["game"] = "wasserstein: without a penalty its critic has no bound"
    if min(gammas) < 0:
        faults["gamma"] = f"got {min(gammas)}; at least 0 is required"
    if interpolation < 0:
        faults["interpolation"] = f"got {interpolation}; at least 0 is required"
    if every < 1:
        faults["penalty_every"] = f"got {every}; at least 1 is required"
    if critic_turns < 1:
        faults["critic_turns"] = f"got {critic_turns}; at least 1 is required"
    if not all(0 <= strength <= 1 for strength in strengths):
        faults["augmentation"] = f"got {tuple(strengths)}; from 0 to 1 is required"
    return faults


# Whose generator asks nothing of real examples, for patches are not paired.
PATCH_GAMES = ("hinge", "non_saturating", "least_squares")
PERCEPTUAL = ("alexnet", "vgg16")


def adversary_faults(
    *,
    game: str,
    weight: float,
    perceptual: str | None,
    perceptual_weight: float,
    lecam: float,
    disc_from: int,
    gen_from: int,
) -> Mapping[str, str]:
    """Find what does not go together in an autoencoder's adversary.

    Args:
        game: its name.
        weight: of the adversarial loss.
        perceptual: a network of LPIPS, or None.
        perceptual_weight: of its distance.
        lecam: weight of that penalty.
        disc_from: step from which the discriminator is trained.
        gen_from: step from which its loss enters the autoencoder's.
    """
    faults: dict[str, str] = {}
    if game not in PATCH_GAMES:
        faults["game"] = f"got {game!r}; one of {', '.join(PATCH_GAMES)} is required"
    if perceptual is not None and perceptual not in PERCEPTUAL:
        faults["perceptual"] = f"got {perceptual!r}; one of {', '.join(PERCEPTUAL)} is required"
    for name, value in (
        ("weight", weight), ("perceptual_weight", perceptual_weight), ("lecam", lecam),
        ("disc_from", disc_from),
    ):  # fmt: skip
        if value < 0:
            faults[name] = f"got {value}; at least 0 is required"
    if gen_from < disc_from:
        faults["gen_from"] = (
            f"got {gen_from}; from disc_from {disc_from} on is required: what was never trained "
            "teaches nothing"
        )
    return faults


def translation_faults(
    *, game: str, weights: Mapping[str, float], slots: int = 1
) -> Mapping[str, str]:
    """Find what does not go together in a translation: ``{argument: what is wrong}``."""
    faults = {
        name: f"got {weight}; at least 0 is required"
        for name, weight in weights.items()
        if weight < 0
    }
    if game not in PATCH_GAMES:
        faults["game"] = f"got {game!r}; one of {', '.join(PATCH_GAMES)} is required"
    if slots < 1:
        faults["slots"] = f"got {slots}; at least 1 is required"
    return faults


def vae_faults(
    *, num_importance: int, beta: float, free_bits: float, kl_warmup: int, sigma: str
) -> Mapping[str, str]:
    """Find what a bound of several importance samples, which has no KL, cannot do.

    Args:
        num_importance: K.
        beta: weight of the KL.
        free_bits: nats below which it is not pressed.
        kl_warmup: steps over which it rises.
        sigma: of a Gaussian likelihood: ``"fixed"``, ``"learned"`` or ``"optimal"``.
    """
    if num_importance <= 1:
        return {}
    faults = {
        name: f"got {value}; {needed} is required with num_importance > 1, whose bound has no KL"
        for name, value, needed in (
            ("beta", beta, 1),
            ("free_bits", free_bits, 0),
            ("kl_warmup", kl_warmup, 0),
        )
        if value != needed
    }
    if sigma == "optimal":
        faults["sigma"] = "got 'optimal'; 'fixed' or 'learned' is required with num_importance > 1"
    return faults
