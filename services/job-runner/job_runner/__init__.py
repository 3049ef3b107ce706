"""job-runner: turns a job's file into notifications."""
