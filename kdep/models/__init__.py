"""Networks and weights: backbones, checkpoints, teachers that package registries carry."""
