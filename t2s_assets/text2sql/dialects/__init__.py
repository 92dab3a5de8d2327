"""Gold SQL of other dialects, written as DuckDB SQL that means the same."""
