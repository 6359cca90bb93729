"""Run ``rowcast demo``: a small shop with relay, worker and replica on this machine for a few seconds."""
