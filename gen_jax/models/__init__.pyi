from gen_jax.models import (
    adversarial_autoencoder as adversarial_autoencoder,
    adversary as adversary,
    autoencoder as autoencoder,
    autoregressive as autoregressive,
    classifier as classifier,
    diffusion as diffusion,
    dvae as dvae,
    gan as gan,
    gaussian_mixture as gaussian_mixture,
    rules as rules,
    vae as vae,
    vqvae as vqvae,
)
