"""Chooses settings to train side by side, and which of them go on. Pure."""
