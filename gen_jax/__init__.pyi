from gen_jax import (
    codecs as codecs,
    diffusion as diffusion,
    models as models,
    nn as nn,
    ops as ops,
    patches as patches,
    train as train,
)
from gen_jax.codecs import (
    binary as binary,
    dequantize as dequantize,
    pretrained as pretrained,
    rgb as rgb,
    tokens as tokens,
    unit as unit,
    with_codec as with_codec,
)
from gen_jax.launch.door import Run as Run, load as load, show as show
from gen_jax.models.adversarial_autoencoder import (
    adversarial_autoencoder_model as adversarial_autoencoder_model,
)
from gen_jax.models.adversary import Adversary as Adversary, with_adversary as with_adversary
from gen_jax.models.autoencoder import autoencoder_model as autoencoder_model
from gen_jax.models.autoregressive import (
    autoregressive_model as autoregressive_model,
    hierarchical_model as hierarchical_model,
)
from gen_jax.models.boltzmann import dbm_model as dbm_model, rbm_model as rbm_model
from gen_jax.models.captioned import captioned_model as captioned_model
from gen_jax.models.classifier import classifier_model as classifier_model
from gen_jax.models.clip import clip_model as clip_model
from gen_jax.models.diffusion import diffusion_model as diffusion_model
from gen_jax.models.dvae import dvae_model as dvae_model
from gen_jax.models.flow import flow_model as flow_model
from gen_jax.models.gan import gan_model as gan_model, stylegan_model as stylegan_model
from gen_jax.models.gaussian_mixture import gaussian_mixture_model as gaussian_mixture_model
from gen_jax.models.next_scale import next_scale_model as next_scale_model
from gen_jax.models.translation import (
    cyclegan_model as cyclegan_model,
    pix2pix_model as pix2pix_model,
)
from gen_jax.models.vae import vae_model as vae_model
from gen_jax.models.vqvae import vqvae_model as vqvae_model
from gen_jax.nn.dit import DiT as DiT
from gen_jax.nn.pixelcnn import PixelCNN as PixelCNN
from gen_jax.nn.text import TextTransformer as TextTransformer
from gen_jax.nn.transformer import CausalTransformer as CausalTransformer
from gen_jax.nn.unet import UNet as UNet
from gen_jax.protocols import (
    Codec as Codec,
    Density as Density,
    Input as Input,
    Latents as Latents,
    Model as Model,
    Sampler as Sampler,
    Turn as Turn,
    Weights as Weights,
)
from gen_jax.train.state import TrainState as TrainState, init_state as init_state
from gen_jax.train.step import make_train_step as make_train_step

__version__: str
