"""A model file judged by a hospital for itself: nothing is sent, and no coordinator is asked."""
