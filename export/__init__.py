"""From a Hugging Face checkpoint to a bundle, and from a bundle to stages.

This file imports nothing: ``export.partition.stages`` works on a laptop without torch.
"""
