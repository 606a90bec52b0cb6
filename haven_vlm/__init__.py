"""The parts A Haven VLM Connector is made of. Importing this package does nothing but define names."""
