"""SQL as text and as sqlglot's trees: read, named, compared."""
