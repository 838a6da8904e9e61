"""Effects of a session: sockets, device processes, files that are sent, clocks."""
