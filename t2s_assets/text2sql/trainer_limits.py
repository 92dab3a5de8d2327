"""Limits of the trainer that a plan needs to know without loading it."""

PASS_TOKENS = 768
"""Padded tokens that one forward and backward pass takes on a CPU; a wider batch is taken in several with the same
gradient. What a pass keeps for its backward half grows with its tokens, and larger ones are no faster there."""
