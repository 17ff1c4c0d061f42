"""Image files: list, decode, cache, download."""
