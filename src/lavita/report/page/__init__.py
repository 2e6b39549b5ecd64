"""report.html: one page that holds all of a run, from the results folder alone."""

from lavita.report.page.build import report_html as report_html
