"""What happens to every gRPC call before and after its service method: the caller's token is checked, inference is
traced, the request is parsed, and an error becomes the call's status. They wrap each other in this order."""
