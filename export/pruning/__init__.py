"""Cuts initial adapters out of the backbone's own layers."""
