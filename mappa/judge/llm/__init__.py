"""A paid model as the judge: any OpenAI-compatible endpoint."""
