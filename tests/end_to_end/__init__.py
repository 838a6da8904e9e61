"""Real processes, real sockets, real models."""
