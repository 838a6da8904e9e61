"""The commands of ``pacplus``, one module for each group."""
