"""The activation cache: every needed hidden state of every sample, on its owner's disk."""
