"""Calls over HTTP/1.1, for http:// and https:// addresses. Needs httpx2, which the extra ``http`` installs."""
