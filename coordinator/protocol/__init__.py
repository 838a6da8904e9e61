"""Names what goes into a session and comes out of it: events, actions, job, record. Pure."""
