"""Which images there are: folders, lists, packs, tar shards, manifests, and their names and hashes."""
