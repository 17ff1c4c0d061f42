"""The protocols that evaluate a frozen encoder; one per file."""
