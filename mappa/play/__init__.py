"""How a team acts: seats, the scene they share, rollouts, and episodes on disk."""
