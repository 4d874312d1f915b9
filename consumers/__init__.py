"""How records come in: decoding, the Kafka source, and the gate that pauses it."""
