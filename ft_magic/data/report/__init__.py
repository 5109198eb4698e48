"""Report: what is off in the rows, a module for each kind of finding, and the fixes."""
