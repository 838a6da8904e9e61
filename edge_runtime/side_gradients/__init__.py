"""Gradients of the side network and its pooled head, by hand, in numpy.

A classifier's batch is some 200 tokens of 48 channels: PyTorch and its autograd spend more
on a thousand small operations than on the arithmetic. What is computed is
:class:`edge_runtime.parallel_adapters.module.ParallelAdapter`, which the tests compare with.

Shapes: L hidden states, B samples of at most T tokens, N tokens without padding, d backbone
width, w adapter width, H heads of k channels, C outputs.
"""
