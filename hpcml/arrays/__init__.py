"""Where numbers live: devices, aligned memory, seeds, spans."""
