"""Metrics with their intervals; numpy only."""
