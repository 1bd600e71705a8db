"""Every read of the payments app that other parts use, one module per subject."""
