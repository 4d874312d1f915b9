"""The paths of the server, and the protocols that they speak. Imported by `pipeline.serve.server_process`."""
