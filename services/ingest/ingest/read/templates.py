"""Templates as a client sees them, and texts that were received (none are, yet)."""

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
    """Answers what is asked about templates."""

    def __init__(self, directory: Directory, library: TemplateCache) -> None:
        self._directory = directory
        self._library = library

    async def newest(self, call: HttpRequest, caller: Caller) -> Answer:
        return self._one(call.path_parameters[0], None, caller)

    async def version(self, call: HttpRequest, caller: Caller) -> Answer:
        # Version 0 is the newest.
        return self._one(call.path_parameters[0], int(call.path_parameters[1]) or None, caller)

    async def all(self, call: HttpRequest, caller: Caller) -> Answer:
        given_ = listing.parse_query(call.scope["query_string"])
        kinds = given_.get("type", [])[:1]
        faults = listing.choice_faults("type", kinds, listing.TEMPLATE_TYPES)
        faults += fields.unexpected([name for name in given_ if name != "type"])
        if faults:
            return validation_error(*faults)
        found = [
            each
            for each in self._directory.latest_templates(caller.service.id)
            if not each.archived and not each.hidden and (not kinds or each.channel in kinds)
        ]
        found.sort(key=lambda each: (each.name, each.channel))
        return json_answer({"templates": [self._shown(each) for each in found]})

    async def preview(self, call: HttpRequest, caller: Caller) -> Answer:
        body = fields.decode_object(call.header(b"content-type"), await call.body())
        if isinstance(body, Answer):
            return body
        template = self._template(call.path_parameters[0], None, caller)
        if isinstance(template, Answer):
            return template
        values = body.get("personalisation", {})
        if type(values) is not dict:
            return validation_error(
                f"personalisation {fields.printed(values)} is not of type object"
            )
        if refusal := rules.check_size({n: v for n, v in values.items() if type(v) is not dict}):
            return refusal
        return self._previewed(template, values)

    async def received(self, call: HttpRequest, _: Caller) -> Answer:
        parameters = listing.parse_query(call.scope["query_string"])
        if refusal := listing.check_older_than(parameters):
            return refusal
        links = {"current": f"{call.base_url()}/v2/received-text-messages"}
        return json_answer({"received_text_messages": [], "links": links})

    def _one(self, id: str, version: int | None, caller: Caller) -> Answer:
        found = self._template(id, version, caller)
        return found if isinstance(found, Answer) else json_answer(self._shown(found))

    def _template(self, id: str, version: int | None, caller: Caller) -> Template | Answer:
        if not fields.UUID_FORM.fullmatch(id):
            return validation_error("id is not a valid UUID")
        found = self._directory.template(UUID(id), version)
        if found is None or found.service_id != caller.service.id or found.hidden:
            return NO_RESULT
        return found

    def _previewed(self, template: Template, personalisation: dict[str, Any]) -> Answer:
        compiled = self._library.compiled(template)
        values = templates.normalise(storable(personalisation))
        if missing := compiled.missing(values):
            return bad_request(f"Missing personalisation: {', '.join(missing)}")
        html = None
        if template.channel is Channel.EMAIL:
            html = email.in_full(compiled.body, values).html
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
        compiled = self._library.compiled(template)
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
