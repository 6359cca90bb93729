"""Run random programs of an application with and without the capture, and compare what the application sees."""
