"""The checks of the gate, one module each: a check returns a PassedCheck or raises GateError."""
