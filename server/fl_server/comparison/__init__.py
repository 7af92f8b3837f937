"""Comparisons: many models of one study's sites, tasks and patients, from one file, in tables and pictures."""
