"""Importers: a user's own download of a public data set becomes site folders."""
