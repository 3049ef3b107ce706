"""The OpenAPI description, built from the tables that check requests, and a page that shows it."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import msgspec

from ingest.bulk import forms
from ingest.http import fields as schema
from ingest.http.answers import Answer
from ingest.http.fields import Field
from ingest.read import listing, views

UUID = {"type": "string", "format": "uuid"}
FORMS: Mapping[Callable[..., Any], dict[str, Any]] = {
    schema.stored_text: {"type": "string", "description": "Your own reference, to find it by."},
    schema.email: {"type": "string", "format": "email", "maxLength": 320},
    schema.phone: {"type": "string", "description": "Starts with + unless it is North American."},
    schema.uuid: UUID,
    schema.schedule: {"type": ["string", "null"], "format": "date-time"},
    schema.personalisation: {"type": "object", "description": "A value for each placeholder."},
    schema.text: {"type": "string"},
    forms.name: {"type": "string", "maxLength": forms.NAME_MAX, "description": "The job's."},
    forms.sender: {**UUID, "type": ["string", "null"]},
    forms.rows: {
        "type": "array",
        "items": {"type": "array"},
        "description": "Arrays of cells, the header row first: rows or csv.",
    },
    forms.csv: {"type": "string", "description": "The text of a CSV file: rows or csv."},
}  # fmt: skip
ERROR = {
    "type": "object",
    "required": ["status_code", "errors"],
    "properties": {
        "status_code": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
REFUSALS = {
    "400": "The request is invalid or not possible; the message says why.",
    "401": "No authentication.",
    "403": "Not authenticated, or not allowed.",
    "429": "A limit is reached.",
    "503": "Unavailable, or not known whether it was stored: retry with the same Idempotency-Key.",
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "With one type of API key, it stands for one request for 48 hours.",
}
LIST_FORMS = {
    "status": {"type": "array", "items": {"type": "string", "enum": list(views.STATUSES)}},
    "template_type": {
        "type": "array",
        "items": {"type": "string", "enum": list(listing.TEMPLATE_TYPES)},
    },
    "reference": {"type": "string"},
    "older_than": UUID,
    "include_jobs": {"type": "string", "enum": list(listing.BOOLEANS)},
}


def body(fields: tuple[Field, ...]) -> dict[str, Any]:
    """Return the schema of a JSON body with these fields."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in fields if field.required],
        "properties": {field.name: FORMS[field.read] for field in fields},
    }


def answers(status: str, description: str) -> dict[str, Any]:
    """Describe the success and the errors of an operation."""
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {s: {"description": why, "content": refusal} for s, why in REFUSALS.items()}
    return {status: {"description": description}, **refusals}


FILE = {
    "type": "string",
    "format": "binary",
    "description": "CSV in UTF-8, separated by commas, a header row first. Comes after all fields.",
}


def post(summary: str, fields: tuple[Field, ...]) -> dict[str, Any]:
    """Describe a POST that sends, with a JSON body."""
    return posted(summary, "application/json", body(fields))


def upload(summary: str, fields: tuple[Field, ...]) -> dict[str, Any]:
    """Describe a POST that sends, with a file in a form."""
    form = body(fields)
    form["required"] = [*(name for name in form["required"] if name != "name"), "file"]
    form["properties"]["file"] = FILE
    return posted(summary, "multipart/form-data", form)


def posted(summary: str, kind: str, form: dict[str, Any]) -> dict[str, Any]:
    """Describe a POST that a client may repeat with the same Idempotency-Key."""
    return {
        "summary": summary,
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": {kind: {"schema": form}}},
        "responses": answers("201", "Stored in every in-sync replica; it will be sent."),
    }


def get(summary: str, **path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Describe a GET with parameters in its path."""
    return {
        "summary": summary,
        "parameters": [
            {"name": n, "in": "path", "required": True, "schema": form}
            for n, form in path_parameters.items()
        ],
        "responses": answers("200", "Found."),
    }  # fmt: skip


def job_command(summary: str, description: str) -> dict[str, Any]:
    """Describe a POST that pauses, resumes or cancels a job."""
    operation = get(summary, job_id=UUID)
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    more = {
        "404": {"description": "There is no such job.", "content": refusal},
        "409": {"description": "The job has finished, or is cancelled.", "content": refusal},
    }
    description += " The job has no counts if its rows could not be counted."
    return {**operation, "responses": {**answers("202", description), **more}}


def report() -> dict[str, Any]:
    """Describe the report of a job."""
    operation = get("Every row of a job and its status, as CSV", job_id=UUID)
    operation["responses"]["200"]["content"] = {"text/csv": {"schema": {"type": "string"}}}
    return operation


def spec() -> dict[str, Any]:
    """Return the whole OpenAPI document."""
    parameters = [
        {"name": name, "in": "query", "schema": form} for name, form in LIST_FORMS.items()
    ]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Courant",
            "version": "2",
            "description": "Sends email and SMS, and can prove that it did.",
        },
        "security": [{"jwt": []}, {"key": []}],
        "paths": {
            "/v2/notifications/email": {"post": post("Send an email", schema.EMAIL_FIELDS)},
            "/v2/notifications/sms": {"post": post("Send a text message", schema.SMS_FIELDS)},
            "/v2/notifications/bulk": {
                "post": post("Send one template to many", forms.BULK_FIELDS)
            },
            "/v2/notifications/{notification_id}": {
                "get": get("A notification and its status", notification_id=UUID)
            },
            "/v2/notifications": {
                "get": {**get("Notifications, newest first"), "parameters": parameters}
            },
            "/v2/jobs": {
                "post": upload("Send one template to everybody in a file", forms.JOB_FIELDS),
                "get": {
                    **get("Jobs, newest first"),
                    "parameters": [{"name": "older_than", "in": "query", "schema": UUID}],
                },
            },
            "/v2/jobs/{job_id}": {"get": get("The progress of a job", job_id=UUID)},
            "/v2/jobs/{job_id}/cancel": {
                "post": job_command("Cancel a job, for good", "Waiting rows will not be sent.")
            },
            "/v2/jobs/{job_id}/pause": {"post": job_command("Pause a job", "It is paused.")},
            "/v2/jobs/{job_id}/resume": {"post": job_command("Resume a job", "It is resumed.")},
            "/v2/jobs/{job_id}/report": {"get": report()},
            "/v2/template/{id}": {"get": get("A template", id=UUID)},
            "/v2/template/{id}/version/{version}": {
                "get": get("A version of a template", id=UUID, version={"type": "integer"})
            },
            "/v2/templates": {"get": get("All templates")},
        },
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {
                "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                        "description": "HS256 with the key's secret; iss is the service's id."},
                "key": {"type": "apiKey", "in": "header", "name": "Authorization",
                        "description": "ApiKey-v1, a space, and the whole key."},
            },
        },
    }  # fmt: skip


SPEC = msgspec.json.encode(spec())
AS_JSON = Answer(200, SPEC)
AS_YAML = Answer(200, SPEC, content_type=b"application/yaml")  # JSON is YAML

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;
margin:2rem auto;padding:0 1rem}code,pre{font:14px ui-monospace,monospace}
section{border-top:1px solid #8886;padding:1rem 0}
h2{font-size:1.1rem;margin:0}b{color:#0a7d4f}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"""


def page() -> bytes:
    """Return the description as an HTML page that loads nothing else."""
    described = spec()
    parts = [
        f"<section><h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2>"
        f"<p>{escape(operation['summary'])}</p>{table(operation)}</section>"
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Courant API</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>Courant API</h1><p>{escape(described['info']['description'])} "
        f"<a href=/openapi.json>OpenAPI</a></p>{''.join(parts)}</html>"
    ).encode()


def table(operation: Mapping[str, Any]) -> str:
    """Return an HTML table of an operation's fields and parameters."""
    form: dict[str, Any] = {"properties": {}, "required": []}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        form = content["schema"]
    rows = [(n, f, n in form["required"]) for n, f in form["properties"].items()]
    rows += [(p["name"], p["schema"], p.get("required", False)) for p in operation["parameters"]]
    return "<table>{}</table>".format(
        "".join(
            f"<tr><td><code>{escape(name)}</code>{' *' if required else ''}<td>"
            f"{escape(str(shape.get('format') or shape['type']))}<td>"
            f"{escape(shape.get('description', ''))}"
            for name, shape, required in rows
        )
    )


PAGE = Answer(200, page(), content_type=b"text/html; charset=utf-8")
