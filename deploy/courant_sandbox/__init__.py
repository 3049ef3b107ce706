"""A provider on one's own machine: it speaks the wire of SES v2, End User Messaging and SNS.

It books every send in a ledger, reports it later by signed SNS receipts, fails on demand, and shows
the messages as an inbox. Nothing leaves the machine.
"""
