"""Make data sets from their owners' archives, and packs of photographs."""
