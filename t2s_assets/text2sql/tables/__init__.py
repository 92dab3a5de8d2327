"""A user's own tables and schemas, from files, DDL and JSON, as a question is asked about them."""
