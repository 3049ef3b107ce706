"""Our two Faust apps: the timers of the leader, and the live figures."""
