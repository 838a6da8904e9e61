"""A language model's frozen head: logits, and the tokens that a loss is computed over. No torch."""
