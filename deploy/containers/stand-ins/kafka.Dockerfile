# Behaves as apache/kafka does under docker-compose.yml: settings from KAFKA_*, data in
# /var/lib/kafka/data, an ordinary user. Its build context holds jre/, jars/ and kafka.sh.
FROM python:3.13-slim
COPY jre /opt/jre
COPY jars /opt/kafka/libs
COPY kafka.sh /opt/kafka/run.sh
RUN useradd --uid 1000 appuser \
    && mkdir -p /var/lib/kafka/data /opt/kafka/config \
    && chown -R appuser /var/lib/kafka /opt/kafka/config
USER appuser
VOLUME /var/lib/kafka/data
CMD ["bash", "/opt/kafka/run.sh"]
