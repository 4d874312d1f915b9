"""How records come in: the Kafka source, the topics' administration, and decoding."""
