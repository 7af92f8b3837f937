"""A site's files -> its checked cohort."""
