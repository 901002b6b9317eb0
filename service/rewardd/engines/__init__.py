"""Engines: whatever computes, behind one verb (`rewardd.core.calls.Engine`)."""
