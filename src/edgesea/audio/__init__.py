"""Audio in, windows and log-mel spectrograms out."""
