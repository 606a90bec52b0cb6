"""Tools of a release: the package source for Stash, and the table of platforms. Nothing here is needed at run time."""
