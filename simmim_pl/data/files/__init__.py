"""Files of images: found, decoded, cached, downloaded."""
