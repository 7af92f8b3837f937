"""A synthetic cohort in real file formats, for demonstrations and tests; labelled synthetic wherever it appears."""
