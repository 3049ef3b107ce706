"""recovery: takes marks, lifts holds, and gives overdue notifications their next step."""
