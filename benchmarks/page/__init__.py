"""The scoreboard for readers: text, Markdown, HTML with plots, model cards."""
