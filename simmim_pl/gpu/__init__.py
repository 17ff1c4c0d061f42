"""What makes one GPU fast, and touches nothing on another processor."""
