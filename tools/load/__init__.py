"""``make load``: a ledger of as many issues and runs as one likes, as months of use would have left it."""
