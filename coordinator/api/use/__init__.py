"""Uses a finished run: predicts, evaluates, writes text; here or on devices."""
