"""The report of a run: one offline page, one table in the terminal, one JSON schema."""
