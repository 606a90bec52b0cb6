"""The embedded vision server itself."""
