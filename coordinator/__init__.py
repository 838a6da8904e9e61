"""Plans, schedules and recovers a fine-tuning run over a person's own devices."""
