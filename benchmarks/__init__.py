"""The claims about speed, each measured by a file named after it."""
