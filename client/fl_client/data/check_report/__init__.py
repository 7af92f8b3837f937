"""The report of a check: one offline HTML file."""
