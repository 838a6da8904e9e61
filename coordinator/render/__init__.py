"""Draws what people see: live progress, reports, plans."""
