"""Parts of :mod:`benchmarks.gsm8k`: data, the two methods, what they came to."""
