"""What comes after a run: judging its model elsewhere, comparing it with another, handing it on."""
