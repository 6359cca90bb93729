"""What an application embeds: the capture and its outbox. Imports no Kafka client."""

from rowcast.producer.announcements import CaptureWarning
from rowcast.producer.capture import Capture, Finding

__all__ = ["Capture", "CaptureWarning", "Finding"]
