"""How results go out: predictions, dead letters, the transactional sink and the webhook."""
