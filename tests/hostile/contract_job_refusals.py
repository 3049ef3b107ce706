"""The contract's refusals of bulk sends; `{}` stands for any text."""

from hostile.refusal import of

FORMS = of(
    400,
    "ValidationError",
    "name is a required property",
    "name {} is not of type string",
    "name must not contain NUL characters",
    "name {} is too long",
    "rows {} is not of type array",
    "rows {} is too short",
    "rows {} is too long",
    "csv {} is not of type string",
    "reply_to_id is not a valid UUID",
    "file is a required property",
)
UPLOADS = (
    *of(415, "BadRequestError", "Content-Type has to be multipart/form-data with a boundary"),
    *of(
        400,
        "BadRequestError",
        "The request's body is not multipart/form-data as its Content-Type says",
        "Only one file can be sent",
        "template_id has to come before the file",
        "{} has to come before the file",
        "{} is there more than once",
        "{} is not UTF-8",
    ),
)
ROWS = of(
    400,
    "BadRequestError",
    "You should specify either rows or csv",
    "Error converting to CSV: iterable expected, not {}",
    "Error converting to CSV: a cell is a list or an object",
    "Error converting to CSV: a cell has more than 131072 characters",
    "Error converting to CSV: header row (line {}) - {}",
    "Error converting to CSV: Row {} (line {}) - {}",
    "Too many columns. Maximum number of columns allowed is {}",
    "Missing column headers: {}",
    "Duplicate column headers: {}",
    "Too many rows. Maximum number of rows allowed is {}",
    "You cannot send to these recipients because you used a team and safelist API key.",
    "You cannot send to these recipients because your service is in trial mode. You can only send "
    "to members of your team and your safelist.",
    "Row {} - has a character count greater than 612 characters. Some messages may be too long due "
    "to custom content.",
    "Some rows have errors. {}",
    "Bulk sending to testing and non-testing numbers is not supported",
)
LIMITS = of(
    400,
    "BadRequestError",
    *(
        f"You only have {{}} remaining {called} before you reach your {period} limit. You've tried "
        f"to send {{}} {called}."
        for called in ("messages", "sms messages")
        for period in ("annual", "daily")
    ),
)
JOBS = FORMS + UPLOADS + ROWS + LIMITS
NO_SLOT = "Too many files are being taken, try again"
"""Answered only to more uploads at once than ingest has slots for."""
