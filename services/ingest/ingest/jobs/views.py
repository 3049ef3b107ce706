"""A job as the API shows it."""

from uuid import UUID

from courant.contracts import Seal
from courant.crypto import KeyRing, Undecryptable
from courant.directory.entries import Directory, Service
from ingest.jobs.rows import Job
from ingest.jobs.rules import job_time

# The contract names one user for everything that comes through the API.
CREATED_BY = {"id": "6af522d0-2915-4e52-83a3-3690455a5fe6", "name": "Notify service user"}


class JobView:
    """Shows jobs to the services that they belong to."""

    def __init__(self, directory: Directory, key_ring: KeyRing) -> None:
        self._directory = directory
        self._key_ring = key_ring

    def accepted(self, job: Seal | Job, service: Service) -> dict[str, object]:
        """Return a job as the answer to its upload shows it, before anything happens to it."""
        id = job_id(job)
        key = self._directory.keys.get(service.id, {}).get(job.key_id)
        return {
            "id": id,
            "created_at": job_time(job.accepted_at),
            "updated_at": None,
            "notification_count": job.rows,
            "original_file_name": self.name(job),
            "job_status": "scheduled" if job.scheduled_for else "pending",
            "scheduled_for": job_time(job.scheduled_for),
            "template": job.template_id,
            "template_version": job.template_version,
            "template_type": job.channel,
            "service": service.id,
            "service_name": {"name": service.name},
            "api_key": {
                "id": job.key_id,
                "name": key.name if key else None,
                "key_type": job.key_type,
            },
            "created_by": CREATED_BY,
            "sender_id": job.sender_id,
            "processing_started": None,
            "processing_finished": None,
            "archived": False,
        }

    def stored(self, job: Job, status: str, service: Service) -> dict[str, object]:
        """Return a job with this status, and with the times of what has happened to it."""
        changes = (job.started_at, job.finished_at, job.commanded_at)
        return {
            **self.accepted(job, service),
            "updated_at": job_time(max(filter(None, changes), default=None)),
            "job_status": status,
            "processing_started": job_time(job.started_at),
            "processing_finished": job_time(job.finished_at),
        }

    def name(self, job: Seal | Job) -> str | None:
        """Return the name of the job's file, or None if no key of the ring decrypts it."""
        try:
            return self._key_ring.decrypt(job.name, owner=job_id(job).bytes).decode()
        except (Undecryptable, UnicodeDecodeError):
            return None


def job_id(job: Seal | Job) -> UUID:
    return job.job_id if isinstance(job, Seal) else job.id
