"""The report: one HTML file that works offline, made of the results of a request.

Each module is a section: a function from a `Report` to its part of the page's data and a list of missing parts.
`reports.page.build` joins them and renders `report.html.j2` with `report.css` and the scripts. Text from files is
escaped by Jinja, data for the script are JSON without `<`, `>` and `&`, and the page forbids all other scripts and all
requests.
"""
