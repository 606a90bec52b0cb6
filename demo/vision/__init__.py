"""Parts of the embedded vision server: scripted faults, and the wire format."""
