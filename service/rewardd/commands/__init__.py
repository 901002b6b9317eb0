"""What the commands do; `cli.py` only declares them."""
