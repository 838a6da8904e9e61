"""Makes a bundle of a Hugging Face checkpoint, and cuts stages out of a bundle.

This file imports what is light: ``export.partition.stages`` works on a laptop without torch.
"""

# It turns ONNX Runtime's telemetry off, which has to be before that is loaded.
from edge_runtime import __version__ as __version__
