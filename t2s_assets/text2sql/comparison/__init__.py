"""Experiments beside each other on the same questions, and the one that serves."""
