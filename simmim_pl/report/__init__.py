"""The local report of runs: one HTML page that needs no account, no network and no script."""
