"""What every run needs, and nobody who reads about learning has to know first."""
