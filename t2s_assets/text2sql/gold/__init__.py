"""What questions are answered with: WikiSQL's sketch or SQL text, and what that returned."""
