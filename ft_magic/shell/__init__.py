"""Shell: what cells and command lines say, read and done; the same for both."""
