from gen_jax import codecs as codecs
from gen_jax import diffusion as diffusion
from gen_jax import models as models
from gen_jax import nn as nn
from gen_jax import ops as ops
from gen_jax import train as train
from gen_jax.codecs import binary as binary
from gen_jax.codecs import dequantize as dequantize
from gen_jax.codecs import pretrained as pretrained
from gen_jax.codecs import rgb as rgb
from gen_jax.codecs import tokens as tokens
from gen_jax.codecs import unit as unit
from gen_jax.codecs import with_codec as with_codec
from gen_jax.models.adversarial_autoencoder import (
    adversarial_autoencoder_model as adversarial_autoencoder_model,
)
from gen_jax.models.autoencoder import autoencoder_model as autoencoder_model
from gen_jax.models.autoregressive import autoregressive_model as autoregressive_model
from gen_jax.models.autoregressive import hierarchical_model as hierarchical_model
from gen_jax.models.classifier import classifier_model as classifier_model
from gen_jax.models.diffusion import diffusion_model as diffusion_model
from gen_jax.models.dvae import dvae_model as dvae_model
from gen_jax.models.gaussian_mixture import gaussian_mixture_model as gaussian_mixture_model
from gen_jax.models.vae import vae_model as vae_model
from gen_jax.models.vqvae import vqvae_model as vqvae_model
from gen_jax.nn.pixelcnn import PixelCNN as PixelCNN
from gen_jax.nn.transformer import CausalTransformer as CausalTransformer
from gen_jax.nn.unet import UNet as UNet
from gen_jax.protocols import Codec as Codec
from gen_jax.protocols import Density as Density
from gen_jax.protocols import Input as Input
from gen_jax.protocols import Latents as Latents
from gen_jax.protocols import Model as Model
from gen_jax.protocols import Sampler as Sampler
from gen_jax.protocols import Turn as Turn
from gen_jax.protocols import Weights as Weights
from gen_jax.train.state import TrainState as TrainState
from gen_jax.train.state import init_state as init_state
from gen_jax.train.step import make_train_step as make_train_step

__version__: str
