"""``make test`` tries what it can in its 15 minutes; ``GEN_JAX_TIER=nightly`` tries more."""

import os

NIGHTLY = os.environ.get("GEN_JAX_TIER") == "nightly"


def tries(every_day, nightly):
    """Choose by the tier."""
    return nightly if NIGHTLY else every_day
