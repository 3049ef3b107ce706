"""Job-runner turns the rows of a job's file into notifications."""
