"""Labelled stamps drawn by the renderer, for tests that need many and clear ones."""

import hashlib

import numpy as np
import torch

from acie_pipelines.models.image_decoder import LATENTS, StampDecoder
from acie_pipelines.training.efigi import ImageSet


def simulated_set(count: int, *, seed: int) -> ImageSet:
    """Half ellipticals (T -5), half spirals (T 3), face-on, with noise."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.zeros(count, len(LATENTS))
    latent[:, 0] = 2.3 + 0.2 * torch.randn(count, generator=generator)
    latent[:, 1] = 2.0
    latent[:, 2:4] = torch.rand(count, 2, generator=generator)
    latent[:, 5] = -2.0
    elliptical = (torch.arange(count) % 2 == 0).float()
    light = StampDecoder().unit_stamps(latent, elliptical)
    light = 180 * light / light.flatten(1).quantile(0.999, dim=1)[:, None, None]
    noisy = light + 8 + 3 * torch.randn(light.shape, generator=generator)
    stamps = noisy.clamp(0, 255).to(torch.uint8).numpy()[:, None].repeat(3, axis=1)
    digests = tuple(hashlib.sha256(stamp.tobytes()).hexdigest() for stamp in stamps)
    types = np.where(elliptical.numpy() > 0, -5, 3).astype(np.int64)
    return ImageSet(tuple(f"S{seed}-{k}" for k in range(count)), digests, types, stamps)
