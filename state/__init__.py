"""What is remembered and learned: learners, shards, snapshots and the store that keeps them."""
