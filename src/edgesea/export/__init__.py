"""Students for other programs and for devices."""
