"""The formats that devices and coordinator agree on. No I/O, no clock, no sockets."""
