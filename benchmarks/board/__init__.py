"""The scoreboard: tables, intervals, comparison, page."""
