"""The operations of anomaly detectors. Imported by `state.compiled.ops.machine`."""
