"""recovery: marks, holds, sweeps: finds what stood still and gives its next order."""
