"""Use connections and engines beyond SQLAlchemy's own methods. Import neither the outbox nor the capture."""
