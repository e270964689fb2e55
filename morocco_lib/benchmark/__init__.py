"""The measurement: protocol, one run, conformance. The only package where tasks, runners and monitors meet.

May import `analysis`, `artifacts`, `runners` and what stands below them.
"""
