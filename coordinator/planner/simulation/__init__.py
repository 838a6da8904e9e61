"""Plays a plan event by event, to check the cost model against it. Pure."""
