"""Code that tests share, for servers, clients over every transport, the command, certificates, models, and waiting."""
