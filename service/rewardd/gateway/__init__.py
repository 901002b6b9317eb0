"""The HTTP gateway: what callers speak to. `app.create_app` puts it together."""
