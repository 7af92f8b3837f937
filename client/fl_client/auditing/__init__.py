"""Attacks on the site's own training, to see what its privacy holds. Nothing of it leaves the site."""
