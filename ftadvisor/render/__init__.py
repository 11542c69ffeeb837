"""Records to text: tables for a terminal, Markdown, HTML and JSON. The only room that formats."""
