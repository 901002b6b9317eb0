"""The reward methods: one paper, one file. Nothing else lives here."""
