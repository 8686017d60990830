"""What tests share: servers, clients over every transport, the command, certificates, models, and how to wait."""
