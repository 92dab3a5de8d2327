"""Evaluating one experiment: what is asked, what is answered, and how it is scored."""
