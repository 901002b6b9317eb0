"""The routes, one file a kind. Each file makes a router around the gateway's state."""
