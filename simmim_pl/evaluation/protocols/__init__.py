"""The protocols that judge a frozen encoder; one a file."""
