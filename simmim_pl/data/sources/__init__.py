"""Where images, masks and clips come from; one source a file."""
