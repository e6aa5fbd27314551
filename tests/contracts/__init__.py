"""What Postgres and Redis promise the engine: the same cases for real servers and for those in memory."""
