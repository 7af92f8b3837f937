"""Site folders: importers of public data sets, and a synthetic cohort in real file formats."""
