"""What `fl-client check` says of a cohort: flow, completeness, Table 1, outcomes; for outsiders without small cells."""
