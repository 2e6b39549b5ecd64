"""The templates of report.html, one per section; page.html.j2 holds them together."""
