"""The trainer's role: its samples, its epochs, the all-reduce of gradients."""
