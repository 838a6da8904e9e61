"""Quantizes a backbone to int8 or int4."""
