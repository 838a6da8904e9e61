"""States a planning problem: blocks, devices, links and samples. Pure."""
