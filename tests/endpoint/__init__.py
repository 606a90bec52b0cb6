"""One endpoint, from the wire to the verdict."""
