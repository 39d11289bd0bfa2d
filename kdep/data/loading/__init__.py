"""Batches of deterministic views: their order, crops, loading processes, images kept in memory."""
