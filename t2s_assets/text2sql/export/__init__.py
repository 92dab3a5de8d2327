"""A tuned model as a folder for other programs."""
