#!/usr/bin/env bash
# Turns AWS's notice that it takes this machine back (two minutes ahead) into a Ray drain, which a run counts as a
# preemption: Ray itself does not look. Runs on every worker until the notice comes.
set -euo pipefail
metadata=${METADATA:-http://169.254.169.254}/latest
seconds=${SECONDS_BETWEEN_LOOKS:-5}

ask() { curl --silent --fail --max-time 5 "$@"; }

notice() {
  local token
  token=$(ask --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") || return 1
  ask --header "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

until notice; do sleep "$seconds"; done
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message 'spot notice' --deadline-remaining-seconds 110
