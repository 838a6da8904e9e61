"""Cuts a backbone into blocks and stages."""
