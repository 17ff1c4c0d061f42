"""The protocols that evaluate a frozen encoder; one a file."""
