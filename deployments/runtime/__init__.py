"""Running functions: drivers behind one interface, the pool of local instances and its host.

Speaks the AWS Lambda Runtime API to whatever runs the code. Must know nothing of HTTP servers and
routes. What the function host (`host`) imports knows neither the database nor Django either; only
`drivers`, `host_status` and `log_writer` belong to the web processes' side.
"""
