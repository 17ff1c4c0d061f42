"""What makes a CPU fast, and touches nothing on another processor."""
