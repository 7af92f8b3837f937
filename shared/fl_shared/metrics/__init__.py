"""Metrics with their intervals; numpy and scipy only."""
