"""The ``pacplus`` command line: options in, calls of :mod:`coordinator.api`, exit codes out."""
