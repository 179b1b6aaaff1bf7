# What every process on every node has in its environment. Not for secrets: the token comes as a file (aws.yaml).
export PATH="$HOME/mim_ray/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
# Where runs are kept. `mim-ray submit` sends your own MLFLOW_TRACKING_URI along, which then counts.
# export MLFLOW_TRACKING_URI=http://SET-ME:5000
