"""A pretraining run: folder, log, resume, device, optimizer, provenance."""
