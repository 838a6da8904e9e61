"""Makes a bundle of a Hugging Face checkpoint, and cuts stages out of a bundle.

This file imports nothing: ``export.partition.stages`` works on a laptop without torch.
"""
