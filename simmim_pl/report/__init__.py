"""The local report of runs: one HTML page that needs no account and no network, and is complete without JavaScript."""
