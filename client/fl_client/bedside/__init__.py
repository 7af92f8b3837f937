"""Predictions at the bedside: pages of single patients, made and kept inside the site.

Nothing here is sent anywhere: no module of this room knows the egress gate, the outbox or the runtime.
"""
