"""``make bench-server``: the whole server beside bare ONNX Runtime, on the hot path and on the ordinary one.

measure     the command: what is run, in which order, and the JSON
process     a running ``hangtag serve``, its calls' outcome, memory and processor time
h2load      the load, from a native client, so that the client is not what is measured
bare        ONNX Runtime without a server, in a process of its own
goals       what is wanted, each a ratio or a bound, and what came out
report      the JSON as tables, and into docs/performance.md
workers     a command of its own: one process and several, their calls a second and their memory
sharing     another: what several processes could share of their models
"""
