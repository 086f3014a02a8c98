# gen-jax:latest, which the launch files under experiments/launch name.
#
#   docker build -t REGISTRY/gen-jax:latest --build-arg EXTRAS=cuda13 .
#
# EXTRAS: train (a CPU), cuda13 or cuda12 (NVIDIA's libraries come with jax's wheels; the host needs
# a driver alone), or tpu; more of them behind commas, as cuda13,tfds.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

ARG EXTRAS=train
WORKDIR /src
# What is installed changes seldom, the code often: a layer for each.
COPY pyproject.toml setup.cfg setup.py MANIFEST.in README.md LICENSE NOTICE ./
COPY constraints constraints
RUN mkdir gen_jax configs \
    && touch gen_jax/__init__.py \
    && pins=constraints/py$(python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt \
    && pip install --no-cache-dir -c "$pins" ".[${EXTRAS}]" \
    && pip uninstall --yes gen-jax
COPY gen_jax gen_jax
COPY configs configs
RUN pip install --no-cache-dir --no-deps . && gen-jax --version && gen-jax configs

# Nothing here needs to be root; a volume for runs must belong to this user.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user
ENTRYPOINT ["gen-jax"]
CMD ["--help"]
