"""Answers requests for templates. Received SMS are not supported yet, so their list is empty."""

from typing import Any
from uuid import UUID

from courant.directory.entries import Directory, Template
from courant.render import email, templates
from courant.topics import Channel
from ingest.accept import rules
from ingest.accept.content import TemplateCache, storable
from ingest.callers.auth import Caller
from ingest.http import fields
from ingest.http.answers import NO_RESULT, Answer, bad_request, json_answer, validation_error
from ingest.http.asgi import HttpRequest
from ingest.read import listing
from ingest.read.views import time


class TemplateEndpoints:
    """Answers requests for templates and their previews."""

    def __init__(self, directory: Directory, template_cache: TemplateCache) -> None:
        self._directory = directory
        self._template_cache = template_cache

    async def newest(self, request: HttpRequest, caller: Caller) -> Answer:
        return self._one(request.path_parameters[0], None, caller)

    async def version(self, request: HttpRequest, caller: Caller) -> Answer:
        # The contract has version 0 for the newest.
        return self._one(
            request.path_parameters[0], int(request.path_parameters[1]) or None, caller
        )

    async def all(self, request: HttpRequest, caller: Caller) -> Answer:
        parameters = listing.parse_query(request.scope["query_string"])
        types = parameters.get("type", [])[:1]
        faults = listing.choice_faults("type", types, listing.TEMPLATE_TYPES)
        faults += fields.unexpected([name for name in parameters if name != "type"])
        if faults:
            return validation_error(*faults)
        shown = [
            template
            for template in self._directory.latest_templates(caller.service.id)
            if not template.archived
            and not template.hidden
            and (not types or template.channel in types)
        ]
        shown.sort(key=lambda template: (template.name, template.channel))
        return json_answer({"templates": [self._shown(template) for template in shown]})

    async def preview(self, request: HttpRequest, caller: Caller) -> Answer:
        body = fields.decode_object(request.header(b"content-type"), await request.body())
        if isinstance(body, Answer):
            return body
        template = self._template(request.path_parameters[0], None, caller)
        if isinstance(template, Answer):
            return template
        values = body.get("personalisation", {})
        if type(values) is not dict:
            return validation_error(
                f"personalisation {fields.printed(values)} is not of type object"
            )
        if refusal := rules.check_size({n: v for n, v in values.items() if type(v) is not dict}):
            return refusal
        return self._preview(template, values)

    async def received(self, request: HttpRequest, _: Caller) -> Answer:
        parameters = listing.parse_query(request.scope["query_string"])
        if refusal := listing.check_older_than(parameters):
            return refusal
        links = {"current": f"{request.base_url()}/v2/received-text-messages"}
        return json_answer({"received_text_messages": [], "links": links})

    def _one(self, id: str, version: int | None, caller: Caller) -> Answer:
        template = self._template(id, version, caller)
        return template if isinstance(template, Answer) else json_answer(self._shown(template))

    def _template(self, id: str, version: int | None, caller: Caller) -> Template | Answer:
        if not fields.UUID_FORM.fullmatch(id):
            return validation_error("id is not a valid UUID")
        template = self._directory.template(UUID(id), version)
        if template is None or template.service_id != caller.service.id or template.hidden:
            return NO_RESULT
        return template

    def _preview(self, template: Template, personalisation: dict[str, Any]) -> Answer:
        compiled = self._template_cache.compiled(template)
        values = templates.normalise(storable(personalisation))
        if missing := compiled.missing(values):
            return bad_request(f"Missing personalisation: {', '.join(missing)}")
        html = None
        if template.channel is Channel.EMAIL:
            html = email.render_in_full(compiled.body, values).html
        return json_answer(
            {
                "id": template.id,
                "type": template.channel,
                "version": template.version,
                "body": compiled.text(values),
                "html": html,
                "subject": compiled.escaped_subject(values),
                "postage": None,
            }
        )

    def _shown(self, template: Template) -> dict[str, object]:
        compiled = self._template_cache.compiled(template)
        names = templates.names(compiled.subject, compiled.body)
        return {
            "id": template.id,
            "type": template.channel,
            "created_at": time(template.created_at),
            "updated_at": time(template.updated_at),
            "created_by": template.created_by,
            "version": template.version,
            "body": template.body,
            "subject": template.subject if template.channel is Channel.EMAIL else None,
            "name": template.name,
            "personalisation": {name: {"required": True} for name in names},
            "postage": None,
        }
