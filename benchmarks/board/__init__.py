"""The scoreboard as tables: columns, cells, means, ranks, notes."""
