"""Machines somewhere else: a VM that is made and paid for, set up and reached through ssh.

May import `config` and what stands below it; only `cli` imports it. yandex (the SDK), remote (ssh).
"""
