"""MAPPA: finetune a team of language-model agents from per-action judge scores."""
