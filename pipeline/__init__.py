"""The order in which records come in, are learned and go out; and the commands that start it."""
