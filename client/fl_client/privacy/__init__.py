"""What keeps a patient unrecognisable in a release: sampling, clipping, noise, and the ledger that pays for it."""
