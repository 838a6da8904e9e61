"""Reads plans, devices and links that users write down."""
