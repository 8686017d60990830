"""Results for people (table, html) and for programs (document, csv, junit, prometheus), and saved ones read again."""
