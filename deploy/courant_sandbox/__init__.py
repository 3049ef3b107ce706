"""A provider on one's own machine: speaks the wire of SES v2, End User Messaging and SNS.

It books every send in a ledger, tells of it later by signed SNS receipts, fails when ordered
to, and shows what it was given as an inbox. Nothing leaves the machine.
"""
