"""Local training and evaluation of a study at one site."""
