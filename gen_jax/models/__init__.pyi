from gen_jax.models import adversarial_autoencoder as adversarial_autoencoder
from gen_jax.models import autoencoder as autoencoder
from gen_jax.models import autoregressive as autoregressive
from gen_jax.models import classifier as classifier
from gen_jax.models import diffusion as diffusion
from gen_jax.models import dvae as dvae
from gen_jax.models import vae as vae
from gen_jax.models import vqvae as vqvae
