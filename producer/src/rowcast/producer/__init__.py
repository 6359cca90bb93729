"""What an application embeds: the capture and its outbox. Imports no Kafka client."""

from rowcast.producer.capture import Capture, Finding
from rowcast.producer.listeners import CaptureWarning

__all__ = ["Capture", "CaptureWarning", "Finding"]
