#!/usr/bin/env bash
# Writes server.properties from KAFKA_* (KAFKA_NODE_ID is node.id), formats, and runs the broker.
set -euo pipefail
config=/opt/kafka/config/server.properties
env | while IFS='=' read -r name value; do
    case $name in
        KAFKA_HEAP_OPTS | KAFKA_LOG4J_*) ;;
        KAFKA_*) echo "$(echo "${name#KAFKA_}" | tr 'A-Z_' 'a-z.')=$value" ;;
    esac
done > "$config"
java() { /opt/jre/bin/java ${KAFKA_HEAP_OPTS:--Xmx512m} -cp '/opt/kafka/libs/*' "$@"; }
java kafka.tools.StorageTool format --ignore-formatted --cluster-id "$CLUSTER_ID" --config "$config"
exec /opt/jre/bin/java ${KAFKA_HEAP_OPTS:--Xmx512m} \
    -Dorg.slf4j.simpleLogger.logFile=System.out -cp '/opt/kafka/libs/*' kafka.Kafka "$config"
