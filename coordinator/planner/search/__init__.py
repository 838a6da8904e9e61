"""Searches for the plan with the least predicted time. Pure."""
